package forward_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// udpLoopback leads to UDP ports of this host. Each flow has a socket of its own.
type udpLoopback struct {
	wait chan struct{} // before it dials; nil for nothing
	fail error
}

type udpConn struct{ *net.UDPConn }

func (udpConn) CloseWrite() error { return nil }

func (d *udpLoopback) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if d.wait != nil {
		select {
		case <-d.wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if d.fail != nil {
		return nil, d.fail
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port)))
	return udpConn{c}, err
}

// failing leads to a port of this host by a socket whose first read fails.
type failing struct {
	udpLoopback
	dialed chan pipe.Conn
}

func (d *failing) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	c, err := d.udpLoopback.Dial(ctx, to)
	if err == nil {
		err = c.(udpConn).SetReadDeadline(time.Unix(1, 0))
		d.dialed <- c
	}
	return c, err
}

// TestUDPFailureClosesSocket holds that the socket of a flow that fails is closed.
func TestUDPFailureClosesSocket(t *testing.T) {
	testenv.NoLeaks(t)
	to := &failing{dialed: make(chan pipe.Conn, 1)}
	r := startUDP(t, []string{"127.0.0.1"}, echoUDP(t), &forward.Forwarder{Name: "here", Dialer: to})
	if _, err := dialUDP(t, r.listeners[0].Local.AddrPort.String()).Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	remote := <-to.dialed
	testenv.Await(t, "the socket to be closed", func() bool {
		_, err := remote.Write([]byte("still there?"))
		return errors.Is(err, net.ErrClosed)
	})
}

// echoUDP is a port of this host that sends every datagram back.
func echoUDP(t *testing.T) uint16 {
	t.Helper()
	l, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return testenv.EchoUDP(l)
}

// startUDP serves a UDP port.
func startUDP(t *testing.T, addresses []string, remote uint16, f *forward.Forwarder) *running {
	t.Helper()
	listeners, err := forward.Listen(t.Context(), addresses, []target.Port{{Network: target.UDP, Remote: remote}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	r := &running{Forwarder: f, listeners: listeners, interrupt: interrupt, done: make(chan error, 1)}
	f.Events = r.note
	go func() { r.done <- r.Run(ctx, listeners) }()
	t.Cleanup(func() {
		interrupt()
		if err := <-r.done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return r
}

func (r *running) all() []route.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *running) count(kind route.Kind) (n int) {
	for _, e := range r.all() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func dialUDP(t *testing.T, to string) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(testenv.Patience))
	return c.(*net.UDPConn)
}

// exchange sends a datagram and wants it back.
func exchange(t *testing.T, c *net.UDPConn, text string) {
	t.Helper()
	buf := make([]byte, 64<<10)
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != text {
		t.Fatalf("sent %d bytes, got %d, %v", len(text), n, err)
	}
}

// Every client has a flow of its own, and boundaries are kept.
func TestUDP(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"localhost"}, echoUDP(t), &forward.Forwarder{Dialer: &udpLoopback{}})
	var clients sync.WaitGroup
	for _, l := range r.listeners {
		for range 5 {
			c := dialUDP(t, l.Local.AddrPort.String())
			clients.Go(func() {
				for _, size := range []int{1, 0, 1400} {
					exchange(t, c, string(make([]byte, size)))
				}
			})
		}
		clients.Wait()
		exchange(t, dialUDP(t, l.Local.AddrPort.String()), string(make([]byte, 65507))) // alone: a socket takes no more than a few of these
	}
	if n := r.count(route.Opened); n != 12 {
		t.Errorf("%d flows were opened, want 12", n)
	}
	r.interrupt()
	testenv.Await(t, "the event closed", func() bool { return r.count(route.Closed) == 12 })
	for _, e := range r.all() {
		if e.Kind == route.Closed && (e.Sent != 1401 && e.Sent != 65507 || e.Received != e.Sent || e.Err != nil || e.Dropped != 0) {
			t.Errorf("a flow has ended as %+v", e)
		}
	}
}

// A listener on all addresses answers from the one that it was sent to.
func TestUDPOnAllAddresses(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"0.0.0.0", "::"}, echoUDP(t), &forward.Forwarder{Dialer: &udpLoopback{}})
	for i, address := range []string{"127.0.0.2", "::1"} {
		exchange(t, dialUDP(t, netip.AddrPortFrom(netip.MustParseAddr(address), r.listeners[i].Local.Port()).String()), address)
	}
}

// A flow ends when nothing has passed for a while, and the next datagram opens another.
func TestUDPIdle(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"127.0.0.1"}, echoUDP(t), &forward.Forwarder{Dialer: &udpLoopback{}, UDPIdle: 200 * time.Millisecond})
	c := dialUDP(t, r.listeners[0].Local.AddrPort.String())
	for i := range 2 {
		testenv.Await(t, "an answer", func() bool { // what comes just when a flow ends may be lost
			_, _ = c.Write([]byte("x"))
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			n, _ := c.Read(make([]byte, 10))
			return n == 1
		})
		testenv.Await(t, "the event closed", func() bool { return r.count(route.Closed) > i })
	}
	if n := r.count(route.Opened); n < 2 {
		t.Errorf("%d flows were opened, want 2", n)
	}
}

// What comes before the target is reached is kept, as much as is allowed.
func TestUDPEarly(t *testing.T) {
	testenv.NoLeaks(t)
	d := &udpLoopback{wait: make(chan struct{})}
	r := startUDP(t, []string{"127.0.0.1"}, echoUDP(t), &forward.Forwarder{Dialer: d})
	c := dialUDP(t, r.listeners[0].Local.AddrPort.String())
	for range 3 {
		if _, err := c.Write(make([]byte, 50<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	testenv.Await(t, "the event opened", func() bool { return r.count(route.Opened) == 1 })
	time.Sleep(100 * time.Millisecond) // for what is on its way; the figures below hold in any case
	close(d.wait)
	buf := make([]byte, 64<<10)
	for _, want := range []int{50 << 10, 50 << 10, 4} {
		if n, err := c.Read(buf); err != nil || n != want && n != 50<<10 {
			t.Fatalf("got %d bytes, %v, want %d", n, err, want)
		}
	}
}

// A refusal reaches the client where the kernel allows that, and is told once.
func TestUDPRefused(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	port := testenv.FreePort(t) // of TCP, and most likely of UDP
	for _, address := range []string{"127.0.0.1", "::1"} {
		r := startUDP(t, []string{address}, port, &forward.Forwarder{Dialer: &udpLoopback{}})
		c := dialUDP(t, r.listeners[0].Local.AddrPort.String())
		for range 3 {
			_, err := c.Write([]byte("x"))
			if err == nil {
				_, err = c.Read(make([]byte, 10))
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("%s: the client got %v, want ECONNREFUSED", address, err)
			}
		}
		if n := r.count(route.Failed); n != 1 {
			t.Errorf("%s: the refusal was told %d times, want once", address, n)
		}
	}
}

// A target that cannot be reached is asked again after a while, not for every datagram.
func TestUDPFailed(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"127.0.0.1"}, 1, &forward.Forwarder{Dialer: &udpLoopback{fail: errors.New("no way")}})
	c := dialUDP(t, r.listeners[0].Local.AddrPort.String())
	for range 100 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Await(t, "the event failed", func() bool { return r.count(route.Failed) >= 1 })
	if n := r.count(route.Opened); n > 10 { // 1, unless all that takes more than the while
		t.Errorf("the target was asked %d times", n)
	}
}

// A client that asks once and goes away makes room for another one; one that is busy does not.
func TestUDPManyClients(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"127.0.0.1"}, echoUDP(t), &forward.Forwarder{Dialer: &udpLoopback{}})
	to := r.listeners[0].Local.AddrPort.String()
	busy := dialUDP(t, to)
	for i := range 1023 {
		c, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c.(*net.UDPConn), "x")
		c.Close()
		if i%100 == 0 {
			exchange(t, busy, "y")
		}
	}
	last := dialUDP(t, to)
	testenv.Await(t, "an answer to one more client", func() bool {
		exchange(t, busy, "y")
		_, _ = last.Write([]byte("z"))
		_ = last.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := last.Read(make([]byte, 10))
		return n == 1
	})
	for _, e := range r.all() {
		if e.Kind == route.Closed && e.Client.AddrPort == busy.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Error("the client that was busy has lost its flow")
		}
	}
}

// A socket that gets datagrams just then is closed at the end like any other.
func TestUDPBusyAtEnd(t *testing.T) {
	testenv.NoLeaks(t)
	echo := echoUDP(t)
	for range 200 {
		listeners, err := forward.Listen(t.Context(), []string{"127.0.0.1"}, []target.Port{{Network: target.UDP, Remote: echo}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		client := dialUDP(t, listeners[0].Local.AddrPort.String())
		var sending sync.WaitGroup
		sending.Go(func() {
			for client.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
				_, _ = client.Write([]byte("x"))
			}
		})
		time.AfterFunc(time.Millisecond, end)
		if err := (&forward.Forwarder{Dialer: &udpLoopback{}, Events: func(route.Event) {}}).Run(ctx, listeners); err != nil {
			t.Error(err)
		}
		client.Close()
		sending.Wait()
		if err := listeners[0].Packets.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("the socket after the end: %v", err)
		}
	}
}

// A datagram that the target's address family cannot carry is dropped alone, and counted.
func TestUDPTooLarge(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"::1"}, echoUDP(t), &forward.Forwarder{Dialer: &udpLoopback{}})
	c := dialUDP(t, r.listeners[0].Local.AddrPort.String())
	exchange(t, c, "before")
	if _, err := c.Write(make([]byte, 65520)); err != nil { // IPv6 has room for 20 bytes more
		t.Fatal(err)
	}
	exchange(t, c, "after")
	r.interrupt()
	testenv.Await(t, "the event closed", func() bool { return r.count(route.Closed) == 1 })
	for _, e := range r.all() {
		if e.Kind == route.Closed && (e.Dropped != 1 || e.Sent != 11 || e.Received != 11) {
			t.Errorf("the flow has ended as %+v", e)
		}
	}
}

// Datagrams of several clients that come in bursts keep their boundaries, and none is another's.
func TestUDPBursts(t *testing.T) {
	testenv.NoLeaks(t)
	r := startUDP(t, []string{"127.0.0.1"}, echoUDP(t), &forward.Forwarder{Dialer: &udpLoopback{}})
	var clients sync.WaitGroup
	for k := range 5 {
		c := dialUDP(t, r.listeners[0].Local.AddrPort.String())
		clients.Go(func() {
			buf := make([]byte, 64<<10)
			for range 50 {
				const burst = 20
				for i := range burst {
					_, _ = c.Write(slices.Repeat([]byte{byte(k)}, i*20))
				}
				for i := range burst {
					n, err := c.Read(buf)
					if err != nil || n != i*20 || n > 0 && (buf[0] != byte(k) || buf[n-1] != byte(k)) {
						t.Errorf("client %d: datagram %d has %d bytes, %v", k, i, n, err)
						return
					}
				}
			}
		})
	}
	clients.Wait()
}
