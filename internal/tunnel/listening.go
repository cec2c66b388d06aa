package tunnel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// FeatureListening is the feature of a server that tells what listens at its targets.
const FeatureListening = "listening"

const (
	// maxSockets is how many sockets a list has at most, and maxListing how many bytes, with the end of its line. They are
	// large because a client finds out from the list whether it is in that network itself: its own sockets are in there then.
	maxSockets = 8192
	maxListing = 2 << 20
	// listingFrame is room for what a list has beside its sockets.
	listingFrame = 64
	// maxWatches is how many streams of a tunnel may ask what listens at once: each has the kernel asked about once a second.
	maxWatches = 16
)

var (
	errManyWatches = fmt.Errorf("a tunnel has %d streams at most that ask what listens", maxWatches)
	errNoLooking   = fmt.Errorf("what listens at the target: %w", ErrUnsupported)
	errListing     = errors.New("not a list of sockets")
)

// listing is a list of sockets on the wire, in one line of JSON.
type listing struct {
	Sockets []json.RawMessage `json:"sockets"`           // each a listedSocket
	Omitted int               `json:"omitted,omitempty"` // sockets beyond maxSockets, or maxListing
}

// listedSocket is a target.Socket on the wire.
type listedSocket struct {
	Network string         `json:"network"`
	Address netip.AddrPort `json:"address,omitzero"`
	Path    string         `json:"path,omitempty"`
	UID     uint32         `json:"uid"`
	Inode   uint32         `json:"inode,omitempty"`
	PID     int            `json:"pid,omitempty"`
	Command string         `json:"command,omitempty"`
}

// appendListing appends a list of sockets as it is sent. Paths that are not UTF-8 are left out, because JSON cannot
// have them, and so are the last sockets, beyond maxSockets or maxListing. Unix sockets are the last of a list.
func appendListing(to []byte, sockets []target.Socket) []byte {
	l, size := listing{Sockets: []json.RawMessage{}}, listingFrame
	for _, s := range sockets {
		if !utf8.ValidString(s.Path) || len(s.Path) > maxUnixPath {
			continue
		}
		one := mustMarshal(listedSocket{s.Network.String(), s.AddrPort, s.Path, s.UID, s.Inode, s.PID, strings.ToValidUTF8(s.Command, "?")})
		if l.Omitted > 0 || len(l.Sockets) == maxSockets || size+len(one)+1 > maxListing {
			l.Omitted++
			continue
		}
		l.Sockets, size = append(l.Sockets, one), size+len(one)+1
	}
	return append(append(to, mustMarshal(l)...), '\n')
}

// mustMarshal returns the JSON of what is made of text and numbers alone.
func mustMarshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// maxUnixPath is how many bytes the path of a Unix socket has: it fits into struct sockaddr_un (unix(7)) of any system.
const maxUnixPath = 108

// maxCommand is how many bytes of a process' name are kept: Linux has 15.
const maxCommand = 64

// parseListing reads a list of sockets. Those of networks that are not known here are left out.
func parseListing(line []byte) ([]target.Socket, error) {
	var l listing
	if err := json.Unmarshal(line, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", errListing, err)
	}
	if len(l.Sockets) > maxSockets {
		return nil, fmt.Errorf("%w: %d are too many", errListing, len(l.Sockets))
	}
	sockets := make([]target.Socket, 0, len(l.Sockets))
	for _, one := range l.Sockets {
		var s listedSocket
		if err := json.Unmarshal(one, &s); err != nil {
			return nil, fmt.Errorf("%w: %w", errListing, err)
		}
		network, known := target.ParseNetwork(s.Network)
		isPath := strings.HasPrefix(s.Path, "/") && len(s.Path) <= maxUnixPath && !strings.ContainsRune(s.Path, 0)
		switch {
		case !known:
			continue
		case network == target.Unix && (!isPath || s.Address.IsValid()),
			network != target.Unix && (s.Path != "" || !s.Address.IsValid() || s.Address.Port() == 0 || len(s.Address.Addr().Zone()) > maxCommand),
			s.PID < 0, len(s.Command) > maxCommand:
			return nil, fmt.Errorf("%w: %.100q", errListing, s.Network+" "+s.Address.String()+s.Path)
		}
		sockets = append(sockets, target.Socket{
			Endpoint: target.Endpoint{Network: network, AddrPort: s.Address, Path: s.Path},
			UID:      s.UID, Inode: s.Inode, PID: s.PID, Command: s.Command,
		})
	}
	return sockets, nil
}

// Listening tells what listens at what the tunnel leads to, at first and whenever that has changed, until ctx ends or
// the far end does not tell any more. Errors: *PortError if the far end cannot or may not, ErrTunnel, and the context's.
func (c *Client) Listening(ctx context.Context, tell func([]target.Socket)) error {
	return c.listening(ctx, spdy.Header{"network": {"listening"}}, tell)
}

// Listening tells what listens at the target; see Client.Listening.
func (t *ClientTarget) Listening(ctx context.Context, tell func([]target.Socket)) error {
	return t.client.listening(ctx, t.enter(spdy.Header{"network": {"listening"}}), tell)
}

func (c *Client) listening(ctx context.Context, header spdy.Header, tell func([]target.Socket)) error {
	opened := time.Now()
	stream, err := c.OpenStream(header, false)
	if err != nil {
		return err
	}
	defer stream.Reset()
	defer context.AfterFunc(ctx, func() { _ = stream.SetReadDeadline(time.Unix(1, 0)) })()
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxListing)
	for lines.Scan() {
		sockets, err := parseListing(lines.Bytes())
		if err != nil {
			return err
		}
		tell(sockets)
	}
	switch err = lines.Err(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	conn := Conn{client: c, stream: stream, opened: opened}
	return conn.explain(err)
}

// acceptListening handles a stream by which the client asks what listens.
func (s *Server) acceptListening(c *streamConn) {
	watch, life := s.cfg.Listening, s.ctx
	if _, inTarget := c.Headers()["In"]; inTarget {
		t, err := s.targetIn(c.Headers())
		if err != nil {
			c.Fail(err, err.Error())
			return
		}
		watch, life = t.Watch(), t.life
	}
	switch {
	case watch == nil:
		c.Fail(errNoLooking, errNoLooking.Error())
	case s.watching.Add(1) > maxWatches || !s.begin():
		s.watching.Add(-1)
		c.Fail(errManyWatches, errManyWatches.Error())
	default:
		s.work.Go(func() {
			err := s.watch(life, c, watch)
			s.watching.Add(-1)
			s.served(errors.Is(err, ErrNoSandbox))
		})
	}
}

// watch sends a line whenever what listens has changed, until the stream ends or what it is about is gone.
func (s *Server) watch(life context.Context, c *streamConn, watch route.Watch) error {
	ctx, end := context.WithCancelCause(life)
	defer end(nil)
	if s.cfg.Sandbox != nil {
		defer context.AfterFunc(s.cfg.Sandbox, func() { end(ErrNoSandbox) })()
	}
	c.AfterLoss(func() { end(c.Loss()) })
	err := watch(ctx, func(now []target.Socket) {
		if _, err := c.Write(appendListing(nil, now)); err != nil {
			end(err)
		}
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = errNoLooking
	}
	c.Fail(err, err.Error())
	return err
}
