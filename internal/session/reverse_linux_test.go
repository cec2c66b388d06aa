package session_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// there is a target that is listened at: this machine.
type there struct {
	host

	mu    sync.Mutex
	bound []*route.Listener
	err   error // of the next Bind
}

func (h *there) open(_ context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	events(route.Event{Kind: route.Ready})
	return &route.Result{Route: h, Ports: f.Ports, Bind: h.bind}, nil
}

func (h *there) bind(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	l, err := forward.Bind(ctx, at)
	if err == nil {
		h.bound = append(h.bound, l)
	}
	return l, err
}

// lose closes what is listened on, as a tunnel does that is lost; while err is not nil nothing can be.
func (h *there) lose(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	for _, l := range h.bound {
		l.Close()
	}
	h.bound = nil
}

func asked(at target.Endpoint) bool {
	conn, err := net.Dial("tcp", at.AddrPort.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "x"); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err == nil
}

// What was listened on at a target is listened on again after a loss, also by a session that tries nothing
// else again, and what keeps it from that is told once.
func TestListensAgain(t *testing.T) {
	testenv.NoLeaks(t)
	h := &there{host: host{make(chan error)}}
	var r recorder
	local := make(chan target.Endpoint, 10)
	port := echo(t)
	s := &session.Session{
		Forwards: []target.Forward{{
			Target: target.Target{Scheme: target.PID, PID: 1}, Reverse: true, Addresses: []string{"127.0.0.1"},
			Ports: []target.Port{{Local: testenv.FreePort(t), Remote: port.Remote}},
		}},
		Openers: map[target.Scheme]route.Opener{target.PID: h.open},
		Events: func(e route.Event) {
			if !e.Reverse {
				t.Errorf("%+v is not of the way back", e)
			}
			if r.event(e); e.Kind == route.Listening {
				local <- e.Listen
			}
		},
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	at := <-local
	testenv.Await(t, "the way back works", func() bool { return asked(at) })
	h.lose(nil)
	<-local
	testenv.Await(t, "it works again", func() bool { return asked(at) })
	h.lose(errors.New("not now"))
	waiting := func() int {
		return len(slices.DeleteFunc(r.events(), func(e string) bool { return e != "waiting pid://1" }))
	}
	testenv.Await(t, "it is told that it cannot be listened on", func() bool { return waiting() > 0 })
	h.lose(nil)
	<-local
	testenv.Await(t, "it works once more", func() bool { return asked(at) })
	if n := waiting(); n != 1 {
		t.Errorf("told %d times", n)
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if asked(at) {
		t.Error("it is still listened on")
	}
}

// What cannot be listened on in the first place ends the session, and so does a target that nobody can listen at.
func TestCannotListen(t *testing.T) {
	testenv.NoLeaks(t)
	h := &there{host: host{make(chan error)}, err: errors.New("not ever")}
	for name, open := range map[string]route.Opener{"fails": h.open, "has no way": h.host.open} {
		s := &session.Session{
			Forwards: []target.Forward{{
				Target: target.Target{Scheme: target.PID, PID: 1}, Reverse: true, Addresses: []string{"127.0.0.1"}, Ports: []target.Port{{Remote: 80}},
			}},
			Openers: map[target.Scheme]route.Opener{target.PID: open}, Events: func(route.Event) {},
		}
		err := s.Run(t.Context())
		var bind *route.BindError
		if errors.As(err, &bind) != (name == "fails") || errors.Is(err, target.ErrUnsupported) != (name == "has no way") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
