package portforward

import (
	"context"
	"errors"
	"fmt"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// dialTime is how long a port may take to answer. It is in the node's own pod.
const dialTime = 30 * time.Second

// line is the client's side of one connection at the server's end, whatever the
// tunnel's form. Reset gives it up as a failure.
type line interface {
	pipe.Conn
	Reset() error
	// AfterLoss calls f on a goroutine of its own once the client has reset the
	// connection or the tunnel has gone; Loss then says which. A Copy asks for
	// it, too, and then nobody else is told.
	AfterLoss(f func())
	Loss() error
	// fail ends it with words before anything was joined.
	fail(err error, text string)
	// end ends it after it was joined; err is nil after two ends of file.
	end(err error)
	// finished says whether the client was sent the end of file.
	finished() bool
}

// join connects a line to its port and moves octets until both ends are through. The
// error is what became of the connection.
func (c *caller) join(ctx context.Context, l line, port uint16, protocol string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.AfterLoss(func() { cancel(l.Loss()) })
	event := Event{Stage: Failed, Port: port, Client: c.addr, UserAgent: c.agent, Protocol: protocol}
	began := time.Now()
	pod, err := c.dial(ctx, port)
	event.Connect = time.Since(began)
	switch {
	case err == nil:
		event.Stage = Opened
		c.tell(event)
		event.Stage = Closed
		event.Sent, event.Received, err = c.move(ctx, l, pod)
	case ctx.Err() != nil: // there is nobody left to be told
		err = context.Cause(ctx)
		_ = l.Reset()
		l.end(err)
	default:
		l.fail(err, c.words(port, err))
	}
	event.Duration, event.Err = time.Since(began), err
	c.tell(event)
	return err
}

// words are those of stock servers, which people and scripts look for.
func (c *caller) words(port uint16, err error) string {
	return fmt.Sprintf("error forwarding port %d to pod %s, uid : %v", port, c.offer.Pod, err)
}

func (c *caller) dial(ctx context.Context, port uint16) (pipe.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return c.offer.Dialer.Dial(ctx, target.TCPPort(port))
}

// move joins the two sides. ctx has ended when the tunnel has.
func (c *caller) move(ctx context.Context, l line, pod pipe.Conn) (sent, received int64, err error) {
	counts, err := c.server.copier.Copy(l, pod)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // and not what that made of the connection
	}
	if errors.Is(err, ErrReset) && l.finished() {
		err = nil // that is how stock clients hang up on a port that has ended
	}
	l.end(err)
	return counts.FromA, counts.FromB, err
}

func (c *caller) tell(e Event) {
	if e.Err != nil {
		c.server.log.Debug("connection failed", "client", e.Client, "port", e.Port, "err", e.Err)
	}
	if c.offer.Events != nil {
		c.offer.Events(e)
	}
}
