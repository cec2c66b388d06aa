package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// everything is a session that forwards all ports of a pod at an address of its own.
type everything struct {
	pod  *testenv.Pod
	stop context.CancelFunc
	done chan error

	mu        sync.Mutex
	events    []route.Event
	listeners map[string]string // what Ready was told last: the target's addresses, by the local ones
	ready     bool
}

// at is where the session listens: other tests leave 127.0.0.9 alone.
const at = "127.0.0.9"

func forwardAll(t *testing.T, except string) *everything {
	t.Helper()
	return forwardAllBy(t, except, container.Open)
}

func forwardAllBy(t *testing.T, except string, open route.Opener) *everything {
	t.Helper()
	e := &everything{pod: testenv.NewPod(t), done: make(chan error, 1)}
	set, err := target.ParsePortSet(except)
	if err != nil {
		t.Fatal(err)
	}
	f := target.Forward{Target: target.Target{Scheme: target.PID, PID: e.pod.PID}, Addresses: []string{at}, All: true, Except: set}
	s := &session.Session{
		Forwards: []target.Forward{f}, Openers: map[target.Scheme]route.Opener{target.PID: open},
		Events: e.event, Ready: e.current, Drain: time.Minute,
	}
	ctx, stop := context.WithCancel(t.Context())
	e.stop = stop
	go func() { e.done <- s.Run(ctx) }()
	t.Cleanup(stop)
	return e
}

func (e *everything) event(event route.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, event)
}

func (e *everything) current(all []session.State) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listeners, e.ready = map[string]string{}, true
	for _, l := range all[0].Listeners {
		e.listeners[l.Local.String()] = l.Remote.String()
	}
	return nil
}

func (e *everything) count(kind route.Kind) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, event := range e.events {
		if event.Kind == kind {
			n++
		}
	}
	return n
}

// await waits until exactly these are listened on, as "LOCAL REMOTE".
func (e *everything) await(t *testing.T, want ...string) {
	t.Helper()
	testenv.Await(t, fmt.Sprintf("%q is forwarded", want), func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.ready || len(e.listeners) != len(want) {
			return false
		}
		for _, line := range want {
			local, remote, _ := strings.Cut(line, " ")
			if e.listeners[at+":"+local] != remote {
				return false
			}
		}
		return true
	})
}

// serve echoes inside the pod, at an address.
func (e *everything) serve(t *testing.T, address string) net.Listener {
	t.Helper()
	l := e.pod.Listen(t, address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); testenv.Echo(c) }()
		}
	}()
	return l
}

func dialEcho(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	echoes(t, c)
	return c
}

func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(testenv.Patience))
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// Ports come and go with those of the target, wherever they listen, and connections outlive them.
func TestAll(t *testing.T) {
	testenv.NoLeaks(t)
	e := forwardAll(t, "7000-7009")
	e.await(t)
	if n := e.count(route.Waiting); n != 1 {
		t.Errorf("told %d times that nothing listens", n)
	}
	e.serve(t, "127.0.0.1:7005") // left out
	first := e.serve(t, "127.0.0.1:7010")
	e.await(t, "7010 7010")
	e.serve(t, "[::1]:7010")   // the same, of the loopback's other family
	e.serve(t, "0.0.0.0:7011") // of all addresses
	e.serve(t, "[::]:7012")    // the same
	second := e.serve(t, "[::1]:7013")
	e.await(t, "7010 7010", "7011 7011", "7012 7012", "7013 7013") // each has its number
	e.serve(t, "127.0.0.5:7010")                                   // an address of its own, where the number is taken
	e.await(t, "7010 7010", "7011 7011", "7012 7012", "7013 7013", "7014 127.0.0.5:7010")
	for port := 7010; port <= 7014; port++ {
		dialEcho(t, fmt.Sprintf("%s:%d", at, port))
	}
	conn := dialEcho(t, at+":7013")
	second.Close()
	first.Close() // the port still listens on ::1
	e.await(t, "7010 7010", "7011 7011", "7012 7012", "7014 127.0.0.5:7010")
	echoes(t, conn)
	if c, err := net.Dial("tcp", at+":7013"); err == nil {
		c.Close()
		t.Error("a port that is gone is still listened on")
	}
	if n := e.count(route.Gone); n != 1 {
		t.Errorf("%d ports were told to be gone, want 1", n)
	}
	e.pod.Kill()
	if err := <-e.done; err == nil || !strings.Contains(err.Error(), "exited") {
		t.Errorf("ended with %v", err)
	}
}

// A local port that is taken is left to who has it, and a target's own number to that port.
func TestAllTaken(t *testing.T) {
	testenv.NoLeaks(t)
	taken, err := net.Listen("tcp", at+":7020")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	e := forwardAll(t, "")
	e.await(t)
	e.serve(t, "127.0.0.1:7021")
	e.await(t, "7021 7021")
	e.serve(t, "127.0.0.1:7020")
	e.await(t, "7021 7021", "7022 7020")
	e.stop()
	if err := <-e.done; err != nil {
		t.Error(err)
	}
}

// A port whose program is started again and again is not told again and again.
func TestAllFlaps(t *testing.T) {
	testenv.NoLeaks(t)
	const times = 20
	listens := []target.Socket{{Endpoint: target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:7030")}}}
	told := make(chan bool)
	open := func(_ context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		return &route.Result{Route: host{}, Listening: func(ctx context.Context, tell func([]target.Socket)) error {
			for range times {
				tell(listens)
				tell(nil)
			}
			tell(listens)
			close(told)
			<-ctx.Done()
			return ctx.Err()
		}}, nil
	}
	counted := &recorder{}
	f := target.Forward{Target: target.Target{Scheme: target.PID}, Addresses: []string{at}, All: true}
	s := &session.Session{Forwards: []target.Forward{f}, Openers: map[target.Scheme]route.Opener{target.PID: open}, Events: counted.event}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-told
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	n := 0
	for _, e := range counted.events() {
		if strings.HasPrefix(e, "listening") {
			n++
		}
	}
	if n == 0 || n > times/2 {
		t.Errorf("a port that came %d times was told %d times", times+1, n)
	}
}

// The network that porthole is in has its own listeners among all that listen, whatever way leads there.
func TestAllOfOwnNetwork(t *testing.T) {
	testenv.NoLeaks(t)
	byAgent := func(context.Context, target.Forward, func(route.Event)) (*route.Result, error) {
		return &route.Result{Route: host{}, Listening: netns.Here().WatchWithProcesses}, nil
	}
	for name, open := range map[string]route.Opener{"native": container.Open, "agent": byAgent} {
		s := &session.Session{
			Forwards: []target.Forward{{Target: target.Target{Scheme: target.PID, PID: os.Getpid()}, Addresses: []string{at}, All: true}},
			Openers:  map[target.Scheme]route.Opener{target.PID: open}, Events: func(e route.Event) { t.Errorf("%s: event %+v", name, e) },
		}
		if err := s.Run(t.Context()); !errors.Is(err, session.ErrSameNetwork) {
			t.Errorf("%s: %v, want ErrSameNetwork", name, err)
		}
	}
}

// What cannot be listened on is tried again, while nothing changes at the target.
func TestAllWithoutDescriptors(t *testing.T) {
	testenv.NoLeaks(t)
	short := make(chan struct{})
	open := func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		opened, err := container.Open(ctx, f, events)
		if err == nil {
			opened.Listening = func(ctx context.Context, tell func([]target.Socket)) error {
				tell(nil)
				<-short
				tell([]target.Socket{{Endpoint: target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:7040")}}})
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}
		return opened, err
	}
	e := forwardAllBy(t, "", open)
	e.await(t)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	restore := func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	told := e.count(route.Waiting)
	close(short)
	testenv.Await(t, "the failure is told", func() bool { return e.count(route.Waiting) > told })
	time.Sleep(time.Second) // it is tried meanwhile, and told once
	if n := e.count(route.Waiting) - told; n != 1 {
		t.Errorf("the same failure is told %d times", n)
	}
	restore()
	e.await(t, "7040 7040")
	e.stop()
	if err := <-e.done; err != nil {
		t.Error(err)
	}
}

// A target that has hundreds of thousands of ports holds up neither those that can be forwarded nor the session's end.
func TestAllOfMany(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	var sockets []target.Socket
	for port := 1024; port <= 65535; port++ {
		for last := range byte(6) {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, last}), uint16(port))
			sockets = append(sockets, target.Socket{Endpoint: target.Endpoint{AddrPort: to}})
		}
	}
	open := func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		opened, err := container.Open(ctx, f, events)
		if err == nil {
			opened.Listening = func(ctx context.Context, tell func([]target.Socket)) error {
				tell(sockets)
				<-ctx.Done()
				return context.Cause(ctx)
			}
		}
		return opened, err
	}
	e := forwardAllBy(t, "", open)
	testenv.Await(t, "1024 ports are forwarded", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.listeners) == 1024
	})
	e.stop()
	select {
	case <-e.done:
	case <-time.After(testenv.Patience):
		t.Fatal("the session does not end")
	}
}
