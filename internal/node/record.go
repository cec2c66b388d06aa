package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/tunnel"
)

// Record is one thing that happened to a forwarded connection, as the events'
// socket tells it: a JSON object a line.
type Record struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Sandbox   string    `json:"sandbox,omitempty"` // the runtime's id
	Port      uint16    `json:"port,omitempty"`
	Client    string    `json:"client,omitempty"`     // as far as the request told, at most 4 KiB
	UserAgent string    `json:"user_agent,omitempty"` // likewise
	Protocol  string    `json:"protocol,omitempty"`   // portforward.Event has them

	ConnectSeconds float64 `json:"connect_seconds"` // that the port took to answer
	Sent           int64   `json:"sent"`            // octets to the pod, of the end
	Received       int64   `json:"received"`        // octets from the pod, of the end
	Seconds        float64 `json:"seconds"`         // that it lasted, of the end
	Result         string  `json:"result,omitempty"`
	Error          string  `json:"error,omitempty"`

	Lost int64 `json:"lost,omitempty"` // records before this one that the reader was too slow for
}

// The Events of a Record.
const (
	EventFollowing = "following" // of the reader, at first: what happens from now on is told
	EventOpened    = "opened"
	EventClosed    = "closed" // after it was opened
	EventFailed    = "failed" // it never was
)

// The Results of a Record, and of the metrics.
const (
	resultOK        = "ok"         // two ends of file
	resultRefused   = "refused"    // nobody listens on the port
	resultReset     = "reset"      // by either end
	resultDenied    = "denied"     // by the policy
	resultNoSandbox = "no_sandbox" // the pod is gone
	resultTimeout   = "timeout"    // the port did not answer
	resultLost      = "lost"       // the client went away, or the node ends
	resultFailed    = "failed"
)

// results are all of them.
var results = [...]string{
	resultOK, resultRefused, resultReset, resultDenied, resultNoSandbox, resultTimeout, resultLost, resultFailed,
}

// resultOf says which one an error is; the order counts, for errors wrap others.
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
		{syscall.EPIPE, resultReset},    // so Linux calls a reset after an end of file,
		{syscall.ENOTCONN, resultReset}, // and so shutdown(2) any
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

// Follow calls each with every Record that the node at an events' socket tells,
// beginning with an EventFollowing, until ctx ends, which is no error, or each returns one. The error wraps
// ErrNoNode if there is no node, or it has ended, or ErrNotRoot.
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
