package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Record is one thing that happened to a forwarded connection, or to a listener in a pod. The events socket sends
// Records as JSON, one object per line.
type Record struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Sandbox   string    `json:"sandbox,omitempty"`    // its id in the runtime
	Network   string    `json:"network,omitempty"`    // tcp, udp or unix
	Port      uint16    `json:"port,omitempty"`       // of tcp and udp
	Path      string    `json:"path,omitempty"`       // of unix, as the client asked for it
	Reverse   bool      `json:"reverse,omitempty"`    // of the way back: Port is listened on in the pod
	Address   string    `json:"address,omitempty"`    // of the way back: that is listened on
	From      string    `json:"from,omitempty"`       // of the way back: who has connected in the pod
	Client    string    `json:"client,omitempty"`     // as the request says, at most 4 KiB
	UserAgent string    `json:"user_agent,omitempty"` // likewise
	Protocol  string    `json:"protocol,omitempty"`   // portforward.Event has them

	ConnectSeconds float64 `json:"connect_seconds"`   // until the port answered
	Sent           int64   `json:"sent"`              // bytes to the pod, when it has ended
	Received       int64   `json:"received"`          // bytes from the pod, likewise
	Seconds        float64 `json:"seconds"`           // from the stream's arrival to the end, likewise
	Dropped        int64   `json:"dropped,omitempty"` // datagrams that could not be delivered, likewise
	Result         string  `json:"result,omitempty"`
	Error          string  `json:"error,omitempty"`

	Lost int64 `json:"lost,omitempty"` // number of records before this one that were dropped because the reader was too slow
}

// The Events of a Record.
const (
	EventFollowing = "following" // the first record of a reader: it gets what happens from now on
	EventOpened    = "opened"
	EventClosed    = "closed" // after it was opened
	EventFailed    = "failed" // it was never opened, or not listened on

	EventListening = "listening" // a port of the pod is listened on, for the way back
	EventStopped   = "stopped"   // it no longer is
)

// The Results of a Record, and of the metrics.
const (
	resultOK        = "ok"         // two ends of file
	resultRefused   = "refused"    // nobody listens on the port
	resultReset     = "reset"      // by either end
	resultDenied    = "denied"     // by the policy
	resultNoSandbox = "no_sandbox" // the pod is gone
	resultTimeout   = "timeout"    // the port did not answer
	resultLost      = "lost"       // the client is gone, or the node is shutting down
	resultFailed    = "failed"
)

// results are all of them.
var results = [...]string{
	resultOK, resultRefused, resultReset, resultDenied, resultNoSandbox, resultTimeout, resultLost, resultFailed,
}

// networks are all of them.
var networks = [...]string{target.TCP.String(), target.UDP.String(), target.Unix.String()}

// resultOf is the result for an error. The order matters, because errors wrap others.
func resultOf(err error) string {
	if err == nil {
		return resultOK
	}
	for _, is := range []struct {
		err    error
		result string
	}{
		{tunnel.ErrDenied, resultDenied},
		{tunnel.ErrNoSandbox, resultNoSandbox},
		{syscall.ECONNREFUSED, resultRefused},
		{tunnel.ErrTunnel, resultLost},
		{net.ErrClosed, resultLost},
		{context.Canceled, resultLost},
		{syscall.ECONNRESET, resultReset},
		{syscall.EPIPE, resultReset},    // Linux reports this for a reset after an end of file,
		{syscall.ENOTCONN, resultReset}, // and shutdown(2) this for any reset
		{tunnel.ErrReset, resultReset},
		{context.DeadlineExceeded, resultTimeout},
		{os.ErrDeadlineExceeded, resultTimeout},
		{syscall.ETIMEDOUT, resultTimeout},
	} {
		if errors.Is(err, is.err) {
			return is.result
		}
	}
	return resultFailed
}

// To is the port or Unix socket of the pod, in the form that a person types: 8080, 53/udp or
// /run/x.sock; on the way back it has reverse: before it.
func (r Record) To() string {
	if r.Reverse {
		r.Reverse = false
		return "reverse:" + r.To()
	}
	if r.Network == target.UDP.String() {
		return target.Address{Network: target.UDP, Port: r.Port}.String()
	}
	return cmp.Or(r.Path, strconv.Itoa(int(r.Port)))
}

// Follow calls each with every Record from a node's events socket, beginning with an
// EventFollowing, until ctx ends, which is no error, or each returns an error. The error
// wraps ErrNotRoot, or ErrNoNode if there is no node or it has ended.
func Follow(ctx context.Context, endpoint string, each func(Record) error) error {
	path, err := socketPath(endpoint)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %w", ErrNoNode, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", ErrNotRoot, err)
	case err != nil:
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	err = readRecords(conn, each)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func readRecords(r io.Reader, each func(Record) error) error {
	lines := json.NewDecoder(r)
	for {
		var record Record
		err := lines.Decode(&record)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
			return fmt.Errorf("%w any more", ErrNoNode)
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		if err := each(record); err != nil {
			return err
		}
	}
}
