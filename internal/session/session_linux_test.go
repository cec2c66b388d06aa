package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// host is a route to this machine's own ports, until its target is gone.
type host struct{ gone chan error }

func (h host) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", to.Port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (h host) Wait(ctx context.Context) error {
	select {
	case err := <-h.gone:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h host) Close() error { return nil }

func (h host) open(_ context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	events(route.Event{Kind: route.Ready})
	return &route.Result{Route: h, Ports: f.Ports}, nil
}

var errNever = errors.New("there never will be one")

func never(context.Context, target.Forward, func(route.Event)) (*route.Result, error) {
	return nil, &route.FinalError{Err: errNever}
}

// recorder keeps the events of a session.
type recorder struct {
	mu  sync.Mutex
	all []string
}

func (r *recorder) event(e route.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, strings.TrimSpace(string(e.Kind)+" "+e.Target+" "+e.Member))
}

func (r *recorder) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// echo listens on a port of this machine, and sends back what comes.
func echo(t *testing.T) target.Port { return target.Port{Remote: testenv.ServeTCP(t, testenv.Echo)} }

func forwardOf(name string, scheme target.Scheme, p target.Port) target.Forward {
	return target.Forward{Name: name, Target: target.Target{Scheme: scheme}, Ports: []target.Port{p}, Addresses: []string{"127.0.0.1"}, Line: 2}
}

// A forward listens, is ready and carries connections until its target is gone, which
// is the error that ends the session.
func TestOne(t *testing.T) {
	testenv.NoLeaks(t)
	gone, seen := errors.New("it has left"), &recorder{}
	h := host{make(chan error, 1)}
	s := &session.Session{
		Forwards: []target.Forward{forwardOf("web", target.NetNS, echo(t))},
		Openers:  map[target.Scheme]route.Opener{target.NetNS: h.open}, Events: seen.event,
	}
	s.Ready = func(all []session.State) error {
		conn, err := net.DialTimeout("tcp4", all[0].Listeners[0].Local.String(), testenv.Patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(testenv.Patience))
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, 1))
		h.gone <- gone
		return err
	}
	if err := s.Run(t.Context()); !errors.Is(err, gone) || err.Error() != "web: it has left" {
		t.Errorf("ended with %v, want web: %v", err, gone)
	}
	if got := seen.events(); len(got) < 3 || !slices.Equal(got[:3], []string{"listening web", "ready web", "opened web"}) {
		t.Errorf("events %q", got)
	}
}

// Ready waits for all forwards, and the session fails once one of them can never be
// opened; for any of them it does not.
func TestReady(t *testing.T) {
	testenv.NoLeaks(t)
	start := func(anyOf bool) (*recorder, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := &recorder{}
		s := &session.Session{
			Forwards: []target.Forward{forwardOf("never", target.PID, echo(t)), forwardOf("web", target.NetNS, echo(t))},
			Openers:  map[target.Scheme]route.Opener{target.PID: never, target.NetNS: host{}.open},
			File:     "forwards.yaml", Retry: true, ReadyAny: anyOf, Events: seen.event,
		}
		s.Ready = func(all []session.State) error {
			if all[0].Listeners != nil || len(all[1].Listeners) != 1 {
				t.Errorf("state %+v", all)
			}
			if all[0].Over && slices.ContainsFunc(seen.events(), func(e string) bool { return strings.HasPrefix(e, "ended ") }) {
				cancel() // it is told of, and the other one goes on
			}
			return nil
		}
		return seen, s.Run(ctx)
	}
	var several session.Errors
	if _, err := start(false); !errors.As(err, &several) || len(several) != 1 || several[0].Error() != "forwards.yaml:2: never: "+errNever.Error() {
		t.Errorf("waiting for all ends with %v", err)
	}
	seen, err := start(true)
	if err != nil {
		t.Errorf("waiting for any ends with %v", err)
	}
	if got := seen.events(); !slices.Contains(got, "ended forwards.yaml:2: never") || !slices.Contains(got, "ready web") {
		t.Errorf("events %q", got)
	}
}

// What nothing waits for may fail for good, until nothing is left.
func TestNoneIsLeft(t *testing.T) {
	testenv.NoLeaks(t)
	for name, test := range map[string]struct {
		retry bool
		want  string
	}{
		"once":      {want: errNever.Error()},
		"of a file": {retry: true, want: "forwards.yaml:2: a: " + errNever.Error() + "\nforwards.yaml:2: b: " + errNever.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &recorder{}
			s := &session.Session{
				Forwards: []target.Forward{forwardOf("a", target.PID, target.Port{Remote: 1}), forwardOf("b", target.PID, target.Port{Remote: 1})},
				Openers:  map[target.Scheme]route.Opener{target.PID: never}, File: "forwards.yaml", Retry: test.retry, Events: seen.event,
			}
			if err := s.Run(t.Context()); err == nil || err.Error() != test.want || !errors.Is(err, errNever) {
				t.Errorf("ended with %v, want %v", err, test.want)
			}
			if got := seen.events(); len(got) > 0 {
				t.Errorf("what ends the session is told twice: %q", got)
			}
		})
	}
}
