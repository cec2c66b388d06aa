package tunnel

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// dialTime is how long a port may take to answer. It is on the server's own machine.
const dialTime = 30 * time.Second

// Proxy connects clients to ports and copies bytes between the two. Dialer and Copier are
// needed.
type Proxy struct {
	// Dialer leads to the ports. It is called from many goroutines at once. What its errors
	// wrap (ErrDenied, ErrNoSandbox, syscall.ECONNREFUSED, ...) becomes the Reason that the
	// client gets.
	Dialer route.Dialer
	Copier *pipe.Copier
	// Describe returns the text that the client gets when a port cannot be reached. nil
	// means the error's own text.
	Describe func(to target.Address, err error) string
	// Events, if set, is called when a connection is opened, when it has ended and when it
	// could not be opened, from many goroutines at once.
	Events func(Event)
}

// Stage is what an Event reports about a connection, or a listener. Each connection has either Opened and,
// later, Closed, or Failed alone.
type Stage int

// The stages.
const (
	// Opened: the port is connected.
	Opened Stage = iota + 1
	// Closed: the connection has ended after it was opened.
	Closed
	// Failed: the port was never connected: nobody listens, or the client has hung up
	// meanwhile.
	Failed
	// Listening: an address is listened on, for the way back.
	Listening
	// Stopped: it no longer is. One that could not be listened on has Failed alone.
	Stopped
)

// Event is a stage in the life of a connection, or of a listener.
type Event struct {
	Stage Stage
	// To is what is connected to: on the way back, the address that is listened on.
	To target.Address
	// Reverse says that it is about the way back; Listener that it is about a listener and not about
	// a connection; From is who has connected there.
	Reverse, Listener bool
	From              netip.AddrPort
	// Connect is how long the Dialer took.
	Connect time.Duration
	// Sent and Received count the bytes from and to the client; Duration is from the
	// connection's arrival to its end. They are 0 for Opened.
	Sent, Received int64
	Duration       time.Duration
	// Dropped counts the datagrams that could not be delivered, to either side.
	Dropped int64
	// Err is why the connection failed, nil after two ends of file.
	Err error
}

// Serve connects a client to what it wants and copies bytes until both directions have ended. The
// error is why the connection failed. ctx ends with the tunnel, which is its cause then.
func (p *Proxy) Serve(ctx context.Context, client ServerConn, to target.Address) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client.AfterLoss(func() { cancel(client.Loss()) })
	event := Event{Stage: Failed, To: to}
	began := time.Now()
	dialing, stop := context.WithTimeout(ctx, dialTime)
	conn, err := p.Dialer.Dial(dialing, to)
	stop()
	event.Connect = time.Since(began)
	switch {
	case err == nil:
		event.Stage = Opened
		p.report(event)
		event.Stage = Closed
		err = p.copy(ctx, client, conn, &event)
	case ctx.Err() != nil: // the client is gone and can be told nothing
		err = context.Cause(ctx)
		_ = client.Reset()
		client.End(err)
	case p.Describe != nil:
		client.Fail(err, p.Describe(to, err))
	default:
		client.Fail(err, err.Error())
	}
	event.Duration, event.Err = time.Since(began), err
	p.report(event)
	return err
}

// copy moves bytes, or datagrams, in both directions until both have ended, and counts them.
func (p *Proxy) copy(ctx context.Context, client ServerConn, port pipe.Conn, count *Event) (err error) {
	var counts pipe.DatagramCounts
	if count.To.Network == target.UDP {
		counts, err = pipe.CopyDatagrams(client, port)
	} else {
		counts.Counts, err = p.Copier.Copy(client, port)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // the loss itself, not the error that it caused in the copy
	}
	if errors.Is(err, ErrReset) && client.SentEOF() {
		err = nil // stock clients hang up like this on a port that has ended
	}
	client.End(err)
	count.Sent, count.Received, count.Dropped = counts.FromA, counts.FromB, counts.Dropped
	return err
}

func (p *Proxy) report(e Event) {
	if p.Events != nil {
		p.Events(e)
	}
}
