package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// loopback is the shortest of routes: this host.
type loopback struct{}

func (loopback) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// running is a session in a test.
type running struct {
	*forward.Forwarder
	listeners []*route.Listener
	interrupt context.CancelFunc
	now       chan struct{}
	done      chan error

	mu     sync.Mutex
	events []route.Event
}

func start(t *testing.T, route route.Dialer, remote uint16, drain time.Duration) *running {
	t.Helper()
	listeners, err := forward.Listen(t.Context(), []string{"127.0.0.1"}, []target.Port{{Remote: remote}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	r := &running{listeners: listeners, interrupt: interrupt, now: make(chan struct{}), done: make(chan error, 1)}
	r.Forwarder = &forward.Forwarder{Dialer: route, Drain: drain, Now: r.now, Events: r.note}
	go func() { r.done <- r.Run(ctx, listeners) }()
	t.Cleanup(interrupt)
	return r
}

func (r *running) note(e route.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *running) event(i int) route.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events[i]
}

func (r *running) kinds() (kinds []route.Kind) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (r *running) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.listeners[0].Local.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(testenv.Patience):
		t.Fatal("the session goes on after its end")
		return nil
	}
}

// serve accepts on a port of this host and hands each connection to f.
func serve(t *testing.T, f func(*net.TCPConn)) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); f(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { _ = l.Close() })
	return testenv.Port(l)
}

// echo hides that c is a socket: package net would splice, and keep its pipes.
func echo(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{c}, c) }

func wantEcho(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo of %q is %q, %v", text, got, err)
	}
}

func TestSessionTellsWhatHappens(t *testing.T) {
	testenv.NoLeaks(t)
	r := start(t, loopback{}, serve(t, echo), time.Second)
	c := r.dial(t)
	wantEcho(t, c, "hello")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	r.awaitKinds(t, "[opened closed]")
	closed := r.event(1)
	if closed.Sent != 5 || closed.Received != 5 || closed.Err != nil || closed.Duration <= 0 || closed.Client.Addr().String() != "127.0.0.1" {
		t.Errorf("told %+v", closed)
	}
	r.interrupt()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}

func (r *running) awaitKinds(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(testenv.Patience); fmt.Sprint(r.kinds()) != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("told %v, want %s", r.kinds(), want)
		}
	}
}

func TestRefusedIsOnesOwn(t *testing.T) {
	testenv.NoLeaks(t)
	port := serve(t, echo)
	listeners, err := forward.Listen(t.Context(), []string{"127.0.0.1"}, []target.Port{{Remote: port}, {Remote: 1}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var r running
	s := forward.Forwarder{Dialer: loopback{}, Events: r.note}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, listeners) }()

	r.listeners = listeners[:1]
	open := r.dial(t)
	wantEcho(t, open, "before")
	if err := dialAndRead(listeners[1].Local.String()); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the refused client gets %v, want ECONNRESET", err)
	}
	wantEcho(t, open, "after")
	r.awaitKinds(t, "[opened opened failed]")
	if err := r.event(2).Err; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("told %v, want ECONNREFUSED", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// dialAndRead returns the error of whichever of the two sees the reset first.
func dialAndRead(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	return err
}

// slow is a server that answers each request, and its end, when it is told to.
type slow struct {
	port   uint16
	asked  chan string
	answer chan string
}

func newSlow(t *testing.T) *slow {
	t.Helper()
	s := &slow{asked: make(chan string), answer: make(chan string)}
	ended := make(chan struct{})
	s.port = serve(t, func(c *net.TCPConn) {
		for buf := make([]byte, 100); ; {
			n, err := c.Read(buf)
			if err != nil && !errors.Is(err, io.EOF) {
				return
			}
			select {
			case s.asked <- string(buf[:n]):
			case <-ended:
				return
			}
			select {
			case answer := <-s.answer:
				_, _ = io.WriteString(c, answer)
			case <-ended:
				return
			}
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { close(ended) })
	return s
}

// exchange makes one request and has it answered.
func (s *slow) exchange(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := io.WriteString(c, "request"); err != nil {
		t.Fatal(err)
	}
	<-s.asked
	s.answer <- "answer"
	wantRead(t, c, "answer")
}

func wantRead(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

// calm is after how long what was idle all the while counts as idle.
const calm = 700 * time.Millisecond

// A connection with a request under way is let finish; one that nothing moves on is not
// waited for.
func TestDrain(t *testing.T) {
	testenv.NoLeaks(t)
	s := newSlow(t)
	r := start(t, loopback{}, s.port, time.Hour)
	idle, asking := r.dial(t), r.dial(t)
	s.exchange(t, idle)
	s.exchange(t, asking)
	time.Sleep(calm)
	if _, err := io.WriteString(asking, "request"); err != nil {
		t.Fatal(err)
	}
	<-s.asked
	r.interrupt()
	testenv.Await(t, "one is reset, and one waited for", func() bool { return r.count(route.Closed) == 1 && r.count(route.Draining) == 1 })
	for _, e := range r.all() {
		if e.Kind == route.Draining && e.Live != 1 {
			t.Errorf("%d connections are waited for, want 1", e.Live)
		}
	}
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle client reads %v, want ECONNRESET", err)
	}
	if _, err := net.Dial("tcp", r.listeners[0].Local.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a session that ends answers a dial with %v, want ECONNREFUSED", err)
	}
	time.Sleep(calm) // the answer takes its time
	s.answer <- "answer"
	wantRead(t, asking, "answer")
	if err := r.wait(t); err != nil { // idle now, too
		t.Error(err)
	}
}

// One whose client has ended its side waits for the rest of an answer.
func TestDrainWaitsForTheRest(t *testing.T) {
	testenv.NoLeaks(t)
	s := newSlow(t)
	r := start(t, loopback{}, s.port, time.Hour)
	c := r.dial(t)
	if _, err := io.WriteString(c, "request"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-s.asked
	s.answer <- "begin"
	wantRead(t, c, "begin")
	<-s.asked
	time.Sleep(calm)
	r.interrupt()
	r.awaitKinds(t, "[opened draining]")
	time.Sleep(calm)
	s.answer <- "end"
	if all, err := io.ReadAll(c); err != nil || string(all) != "end" {
		t.Errorf("read %q, %v, want the end", all, err)
	}
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}

func TestDrainOfIdleEndsAtOnce(t *testing.T) {
	testenv.NoLeaks(t)
	r := start(t, loopback{}, serve(t, echo), time.Hour)
	c := r.dial(t)
	wantEcho(t, c, "before")
	silent := r.dial(t)
	r.awaitKinds(t, "[opened opened]")
	time.Sleep(calm)
	r.interrupt()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	for _, c := range []*net.TCPConn{c, silent} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client reads %v, want ECONNRESET", err)
		}
	}
	if kinds := r.kinds(); slices.Contains(kinds, route.Draining) {
		t.Errorf("told %v: there was nothing to wait for", kinds)
	}
}

// A transfer that the client does not read goes on to the limit, or until nothing is to be
// waited for any more.
func TestDrainEnds(t *testing.T) {
	for name, drain := range map[string]time.Duration{"in time": 100 * time.Millisecond, "early": time.Hour, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			s := newSlow(t)
			r := start(t, loopback{}, s.port, drain)
			c := r.dial(t)
			if _, err := io.WriteString(c, "request"); err != nil {
				t.Fatal(err)
			}
			<-s.asked
			r.interrupt()
			if drain == time.Hour {
				r.awaitKinds(t, "[opened draining]")
				close(r.now)
			}
			if err := r.wait(t); err != nil {
				t.Error(err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client reads %v, want ECONNRESET", err)
			}
		})
	}
}

// A dial that hangs ends with the session.
func TestInterruptEndsDial(t *testing.T) {
	testenv.NoLeaks(t)
	r := start(t, hanging{}, 1, 0)
	c := r.dial(t)
	r.awaitKinds(t, "[opened]")
	r.interrupt()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want ECONNRESET", err)
	}
}

// hanging is a route on which packets are lost.
type hanging struct{}

func (hanging) Dial(ctx context.Context, _ target.Address) (pipe.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestManyAtOnceAndIdle(t *testing.T) {
	testenv.NoLeaks(t)
	r := start(t, loopback{}, serve(t, echo), 0)
	threads := testenv.Threads(t)
	var wg sync.WaitGroup
	for range 500 {
		c := r.dial(t)
		wg.Go(func() {
			_, _ = io.WriteString(c, "x")
			_, _ = io.ReadFull(c, make([]byte, 1))
		})
	}
	wg.Wait()
	if n := testenv.Threads(t); n > threads+100 {
		t.Errorf("500 open connections take %d threads, %d before", n, threads)
	}
	r.interrupt()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}

func TestConn(t *testing.T) {
	accepted := make(chan *net.TCPConn)
	ended := make(chan struct{})
	port := serve(t, func(c *net.TCPConn) { accepted <- c; <-ended })
	r := start(t, loopback{}, port, 0)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		c1 := r.dial(t)
		c2 := <-accepted
		return c1, c2, func() { _ = c1.Close(); _ = c2.Close() }, nil
	})
	close(ended)
	r.interrupt()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
}
