package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// FeatureTargets is the feature of a server that opens targets by their names.
const FeatureTargets = "targets"

// ClientTarget is one of several targets that a tunnel leads to, held open at the far end.
type ClientTarget struct {
	// Identity names what the far end has opened, for an OpenTarget in a later tunnel. It is ""
	// for a target that may be another one by then.
	Identity string

	client *Client
	stream *spdy.Stream
	gone   chan struct{} // closed when err is set
	err    error
}

// OpenTarget has the far end open a target, by a name such as pid://4947, and hold it until
// Close. With the identity of an earlier one it is the same one or none. The error is a
// *PortError if the far end cannot open it, ErrTunnel, or the context's.
func (c *Client) OpenTarget(ctx context.Context, name, identity string) (*ClientTarget, error) {
	header := spdy.Header{"network": {"target"}, "target": {name}}
	if identity != "" {
		header["identity"] = []string{identity}
	}
	stream, err := c.OpenStream(header, false)
	if err != nil {
		return nil, err
	}
	t := &ClientTarget{client: c, stream: stream, gone: make(chan struct{})}
	t.Identity, err = readLine(ctx, stream)
	if err != nil {
		_ = stream.Reset()
		return nil, t.explain(err)
	}
	go t.watch()
	return t, nil
}

// readLine reads what the far end answers to a stream that it holds something open for: one line. ctx ends
// the wait.
func readLine(ctx context.Context, stream *spdy.Stream) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = stream.SetReadDeadline(time.Unix(1, 0)) })
	line, err := bufio.NewReaderSize(io.LimitReader(stream, maxLine), maxLine).ReadString('\n')
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if errors.Is(err, io.EOF) {
		err = errors.New("the far end answers with no line")
	}
	return strings.TrimSuffix(line, "\n"), err
}

// watch notes why the target is gone.
func (t *ClientTarget) watch() {
	_, err := t.stream.Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the far end has closed the target")
	}
	t.err = t.explain(err)
	close(t.gone)
}

func (t *ClientTarget) explain(err error) error {
	conn := Conn{client: t.client, stream: t.stream}
	return conn.explain(err)
}

// Dial opens a connection to an address of the target; see Client.Dial.
func (t *ClientTarget) Dial(to target.Address) (pipe.Conn, error) {
	return t.client.dial(to, t.enter(addressHeader(to)))
}

// Listen has the target listen on an address; see Client.Listen.
func (t *ClientTarget) Listen(ctx context.Context, at target.Endpoint, session string) (*route.Listener, error) {
	return t.client.listen(ctx, at, t.enter(listenHeader(at, session)))
}

// enter adds to the headers of a stream that it is about this target.
func (t *ClientTarget) enter(header spdy.Header) spdy.Header {
	header["in"] = []string{strconv.FormatUint(uint64(t.stream.ID()), 10)}
	return header
}

// Wait returns why the target is gone: *PortError if the far end says so, ErrTunnel if the
// tunnel is, net.ErrClosed after Close, or ctx' error when that ends first.
func (t *ClientTarget) Wait(ctx context.Context) error {
	select {
	case <-t.gone:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close lets the far end close the target. Its connections live on.
func (t *ClientTarget) Close() error { return t.stream.Reset() }

// maxLine is how many bytes an answer has, such as an identity, with the end of its line.
const maxLine = 256

// ServerTarget is a target that a server has opened for its client.
type ServerTarget interface {
	// Dial is that of route.Dialer.
	Dial(ctx context.Context, to target.Address) (pipe.Conn, error)
	// Identity names what was opened, in one line of 255 bytes at most: a later
	// target of the same identity is the same. It may be "".
	Identity() string
	// Wait returns when the target is gone for good, with the reason, or when ctx ends.
	Wait(ctx context.Context) error
	// Binder listens at the target; nil where that cannot be.
	Binder() route.Binder
	// Watch tells what listens at the target; nil where that cannot be found out.
	Watch() route.Watch
	Close() error
}

// heldTarget is a ServerTarget for as long as the client holds it open.
type heldTarget struct {
	ServerTarget
	life context.Context // ends with it
}

// holdTarget opens a target for a stream, and holds it until that ends or the target is gone.
func (s *Server) holdTarget(c *streamConn) {
	header := c.Headers()
	opening, cancel := context.WithTimeout(s.ctx, dialTime)
	t, err := s.cfg.OpenTarget(opening, header.Get("target"), header.Get("identity"))
	cancel()
	if err != nil {
		c.Fail(err, err.Error())
		return
	}
	defer t.Close()
	ctx, gone := context.WithCancelCause(s.ctx)
	defer gone(nil)
	s.targets.Store(c.ID(), heldTarget{t, ctx})
	defer s.targets.Delete(c.ID())
	c.AfterLoss(func() { gone(c.Loss()) })
	if _, err := fmt.Fprintf(c, "%s\n", t.Identity()); err != nil {
		return
	}
	err = t.Wait(ctx)
	if ctx.Err() == nil {
		c.Fail(err, err.Error())
	}
}

// targetIn returns what a stream is about: the target whose stream it names.
func (s *Server) targetIn(h spdy.Header) (heldTarget, error) {
	id, err := strconv.ParseUint(h.Get("in"), 10, 32)
	if err == nil {
		if t, ok := s.targets.Load(uint32(id)); ok {
			return t.(heldTarget), nil
		}
	}
	return heldTarget{}, fmt.Errorf("no target %.20q is open: %w", h.Get("in"), ErrNoSandbox)
}
