package tunnel

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"sync"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// maxListeners is how many addresses are listened on for one tunnel at once.
const maxListeners = 256

// The errors of listening, besides those of sockets.
var (
	errManyListeners = fmt.Errorf("a tunnel has %d listeners at most", maxListeners)
	errNoListening   = fmt.Errorf("listening at the target: %w", ErrUnsupported)
	errTakenOver     = errors.New("a later tunnel of the same session listens there now")
)

// Listeners are those of all tunnels of a program, so that a session which comes back through another tunnel
// takes over what it has listened on before. The zero value has none.
type Listeners struct {
	// Claim, if set, has other programs let go of what a session listens on at an address, before this one
	// listens there. Hold has lose called when another program claims it, until release is.
	Claim func(at target.Endpoint, session string)
	Hold  func(at target.Endpoint, session string, lose func()) (release func())

	mu   sync.Mutex
	held []*heldListener
}

// heldListener is a listener of one tunnel.
type heldListener struct {
	*route.Listener
	session string
	sandbox context.Context // of its tunnel: what it listens in; nil for one place for all
	open    context.Context // ends when it listens no more, which its connections outlive
	over    context.Context // ends when another takes it over, and its connections with it
	take    context.CancelCauseFunc
}

// takeOver closes the listeners of a session at an address of a sandbox.
func (ls *Listeners) takeOver(sandbox context.Context, at target.Endpoint, session string) {
	if ls.Claim != nil && session != "" {
		defer ls.Claim(at, session)
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.held {
		if session != "" && l.Local == at && l.sandbox == sandbox && subtle.ConstantTimeCompare([]byte(l.session), []byte(session)) == 1 {
			l.lose()
		}
	}
}

// lose ends the listener and its connections, because another one takes its place. Of one that was given up
// before, the connections live on.
func (l *heldListener) lose() {
	open := l.open.Err() == nil
	_ = l.Close()
	if open {
		l.take(errTakenOver)
	}
}

// add enters a listener, until release is called.
func (ls *Listeners) add(l *heldListener) (release func()) {
	ls.mu.Lock()
	ls.held = append(ls.held, l)
	ls.mu.Unlock()
	if ls.Hold == nil || l.session == "" {
		return func() { ls.remove(l) }
	}
	letGo := ls.Hold(l.Local, l.session, l.lose)
	return func() { letGo(); ls.remove(l) }
}

func (ls *Listeners) remove(l *heldListener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.held = slices.DeleteFunc(ls.held, func(other *heldListener) bool { return other == l })
}

// acceptListen handles a stream by which the client has this end listen.
func (s *Server) acceptListen(c *streamConn) {
	bind, life := s.cfg.Bind, s.ctx
	if _, inTarget := c.Headers()["In"]; inTarget {
		t, err := s.targetIn(c.Headers())
		if err != nil {
			c.Fail(err, err.Error())
			return
		}
		bind, life = t.Binder(), t.life
	}
	at, session, err := parseListen(c.Headers())
	switch {
	case err != nil:
		c.refuse(ReasonUnsupported, err.Error())
	case bind == nil:
		c.Fail(errNoListening, errNoListening.Error())
	case s.listening.Add(1) > maxListeners || !s.begin():
		s.listening.Add(-1)
		c.Fail(errManyListeners, errManyListeners.Error())
	default:
		s.work.Go(func() {
			err := s.listen(life, c, bind, at, session)
			s.listening.Add(-1)
			s.served(errors.Is(err, ErrNoSandbox))
		})
	}
}

// listen listens for a stream until that ends, or what the address belongs to is gone: life, and the
// sandbox. Connections live on until they or the tunnel end, unless the listener is taken over.
func (s *Server) listen(life context.Context, c *streamConn, bind route.Binder, at target.Endpoint, session string) error {
	ctx, end := context.WithCancelCause(life)
	defer end(nil)
	if s.cfg.Sandbox != nil {
		defer context.AfterFunc(s.cfg.Sandbox, func() { end(ErrNoSandbox) })()
	}
	c.AfterLoss(func() { end(c.Loss()) })
	s.cfg.Listeners.takeOver(s.cfg.Sandbox, at, session)
	binding, cancel := context.WithTimeout(ctx, dialTime)
	bound, err := bind(binding, at)
	cancel()
	if err != nil {
		c.Fail(err, forward.Cause(err).Error())
		s.reportListener(Failed, at, err)
		return err
	}
	l := &heldListener{Listener: bound, session: session, sandbox: s.cfg.Sandbox, open: ctx}
	l.over, l.take = context.WithCancelCause(context.Background())
	defer l.take(nil)
	defer context.AfterFunc(l.over, func() { end(context.Cause(l.over)) })()
	defer s.cfg.Listeners.add(l)()
	s.reportListener(Listening, bound.Local, nil)
	if _, err := fmt.Fprintf(c, "%s\n", bound.Local.AddrPort); err != nil {
		end(err)
	}
	return s.carryBack(ctx, end, c, l)
}

// carryBack opens a stream for each connection that a client makes to a listener, until ctx ends, which is
// told to whoever has asked for it. It returns why, when the connections have ended too.
func (s *Server) carryBack(ctx context.Context, end context.CancelCauseFunc, c *streamConn, l *heldListener) error {
	told := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(told)
		err := context.Cause(ctx)
		c.Fail(err, err.Error())
		s.reportListener(Stopped, l.Local, err)
	})
	f := forward.Forwarder{
		DialFor: func(_ context.Context, _ *route.Listener, client target.Endpoint) (pipe.Conn, error) {
			return s.openBack(c.ID(), client)
		},
		Events: s.reportBack, Drain: -1, Now: l.over.Done(),
	}
	end(f.Run(ctx, []*route.Listener{l.Listener}))
	<-told
	return context.Cause(ctx)
}

// openBack opens a stream for a connection that a client has made to a listener.
func (s *Server) openBack(listener uint32, client target.Endpoint) (pipe.Conn, error) {
	stream, err := s.conn.OpenStream(incomingHeader(listener, client), false)
	if err != nil {
		return nil, err
	}
	c := &streamConn{stream}
	if client.Network == target.UDP {
		return &datagramServerConn{c, datagrams{stream}}, nil
	}
	return c, nil
}

// reportListener tells what becomes of a listener.
func (s *Server) reportListener(stage Stage, at target.Endpoint, err error) {
	s.cfg.report(Event{Stage: stage, To: addressOf(at), Reverse: true, Listener: true, Err: err})
}

// reportBack tells of a connection on the way back. A Forwarder calls it opened before it has a stream.
func (s *Server) reportBack(e route.Event) {
	event := Event{
		To: addressOf(e.Listen), Reverse: true, From: e.Client.AddrPort, Err: e.Err,
		Sent: e.Received, Received: e.Sent, Dropped: e.Dropped, Duration: e.Duration,
	}
	switch {
	case e.Kind == route.Opened:
		event.Stage = Opened
	case e.Kind == route.Closed:
		event.Stage = Closed
	case e.Kind != route.Failed:
		return
	case !e.Client.IsValid(), errors.Is(e.Err, forward.ErrManyClients):
		event.Stage = Failed
	default:
		event.Stage = Closed
	}
	s.cfg.report(event)
}

func addressOf(at target.Endpoint) target.Address {
	return target.Address{Network: at.Network, Host: at.Addr().String(), Port: at.Port()}
}
