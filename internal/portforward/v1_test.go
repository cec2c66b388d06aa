package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

var _ net.Conn = (*v1Conn)(nil)

func TestV1Conn(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			peers := make(chan net.Conn, 1)
			done := make(chan struct{})
			port := listen(t, func(conn *net.TCPConn) {
				peers <- conn
				<-done
			})
			c := newNode(t).client(t, way)
			c1 = reach(t, c, port)
			if _, ok := c1.(*v1Conn); !ok {
				t.Fatalf("connection is a %T", c1)
			}
			return c1, <-peers, func() { close(done); c.Close() }, nil
		})
	})
}

// An end of file waits for nothing, whichever side it comes from first.
func TestV1EndIsAtOnce(t *testing.T) {
	port := listen(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "enough")
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
	c := newNode(t).client(t)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := reach(t, c, port)
	defer conn.Close()
	began := time.Now()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "enough" {
		t.Fatalf("read %q, %v", got, err)
	}
	if took := time.Since(began); took >= openEnd {
		t.Errorf("the end took %v", took)
	}
}

// What a Dialer's error wraps is what the client's error is.
func TestV1Reasons(t *testing.T) {
	causes := map[Reason]error{
		ReasonRefused:     fmt.Errorf("dial: %w", syscall.ECONNREFUSED),
		ReasonReset:       fmt.Errorf("dial: %w", syscall.ECONNRESET),
		ReasonDenied:      fmt.Errorf("port 81: %w (--deny-ports)", ErrDenied),
		ReasonNoSandbox:   fmt.Errorf("enter: %w", ErrNoSandbox),
		ReasonTimeout:     fmt.Errorf("dial: %w", context.DeadlineExceeded),
		ReasonUnsupported: fmt.Errorf("dial: %w", ErrUnsupported),
		ReasonFailed:      errors.New("out of luck " + strings.Repeat("é", maxMessage)),
	}
	for reason, cause := range causes {
		t.Run(string(reason), func(t *testing.T) {
			n := newNode(t, func(n *node) {
				n.Offers.Dialer = loopback{err: func(uint16) error { return cause }}
			})
			conn := reach(t, n.client(t), 81)
			defer conn.Close()
			_, err := io.ReadAll(conn)
			var failed *PortError
			want := clip("error forwarding port 81 to pod 4f2a, uid : " + cause.Error())
			if !errors.As(err, &failed) || failed.Reason != reason || failed.Text != want || failed.Port != 81 {
				t.Errorf("read: %.200v", err)
			}
			for _, is := range append(reason.errors(), err) {
				if !errors.Is(err, is) {
					t.Errorf("error is not %v", is)
				}
			}
			if errors.Is(err, os.ErrNotExist) {
				t.Error("error is everything")
			}
			if _, err := conn.Write([]byte("x")); !errors.As(err, &failed) {
				t.Errorf("write: %v", err)
			}
		})
	}
}

// A stream that asks for what there is not is told so, and harms no other.
func TestV1Unsupported(t *testing.T) {
	n := newNode(t)
	c := n.client(t)
	port := listen(t, echoing)
	exchangeWith(t, c, port, 10)
	tunnel := c.tunnels.tunnels[0]
	for _, header := range []http.Header{
		{},
		{"network": {"udp"}, "port": {"53"}},
		{"network": {"unix"}, "path": {"/run/x.sock"}},
		{"network": {strings.Repeat("x", 10_000)}},
		{"network": {"tcp"}},
		{"network": {"tcp"}, "port": {"0"}},
		{"network": {"tcp"}, "port": {"65536"}},
		{"network": {"tcp"}, "port": {"http"}},
	} {
		s, err := tunnel.conn.OpenStream(header, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, spdy.ErrReset) {
			t.Errorf("%.50v: %v", header, err)
		}
		if got := s.LateHeaders().Get("reason"); got != "unsupported" {
			t.Errorf("%.50v: %q", header, got)
		}
	}
	exchangeWith(t, c, port, 10)
}

// A WebSocket is only what there is where SPDY does not get through, and nothing is opened
// that is not used.
func TestV1Ways(t *testing.T) {
	for refuse, want := range map[string]struct{ via, asked string }{
		"":     {"spdy spdy", "POST POST"},
		"POST": {"websocket websocket", "POST GET GET"},
		"GET":  {"spdy spdy", "POST POST"},
	} {
		n := newNode(t, func(n *node) { n.refuse = refuse })
		c := n.client(t)
		c.init()
		var ways []string
		for range 2 {
			u, via, err := c.upgrade(t.Context())
			if err != nil {
				t.Fatalf("without %q: %v", refuse, err)
			}
			if !isV1(u.protocol) {
				t.Errorf("without %q: protocol is %s", refuse, u.protocol)
			}
			u.Close()
			ways = append(ways, via)
		}
		n.mu.Lock()
		asked := strings.Join(n.asked, " ")
		n.mu.Unlock()
		if via := strings.Join(ways, " "); via != want.via || asked != want.asked {
			t.Errorf("without %q: %s by %s, want %s by %s", refuse, via, asked, want.via, want.asked)
		}
	}
}

// busyTunnels is how many tunnels there may be where one is enough: on a machine that
// is busy one may stand still long enough to pass for stuck.
const busyTunnels = 3

// A way that no longer gets through is left for the other one.
func TestV1WayChanges(t *testing.T) {
	n := newNode(t)
	c := n.client(t)
	c.init()
	for _, way := range []struct{ refuse, via string }{{"", "spdy"}, {"POST", "websocket"}, {"GET", "spdy"}} {
		n.mu.Lock()
		n.refuse = way.refuse
		n.mu.Unlock()
		u, via, err := c.upgrade(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		u.Close()
		if via != way.via {
			t.Errorf("with %q refused: %s, want %s", way.refuse, via, way.via)
		}
	}
}

// One tunnel is enough for a burst, and nothing is opened ahead.
func TestV1OneTunnel(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		n := newNode(t)
		c := n.client(t, way)
		port := listen(t, echoing)
		var work sync.WaitGroup
		for range 200 {
			work.Go(func() { exchangeWith(t, c, port, 10_000) })
		}
		work.Wait()
		time.Sleep(2 * growPause)
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.conns) > busyTunnels {
			t.Errorf("%d tunnels", len(n.conns))
		}
	})
}

// Beyond what a tunnel carries there is another.
func TestV1TunnelIsFull(t *testing.T) {
	n := newNode(t)
	c := n.client(t, keepWebSocket)
	exchangeWith(t, c, listen(t, echoing), 10)
	c.tunnels.mu.Lock()
	full := c.tunnels.tunnels[0]
	full.conns += maxConnsV1
	c.tunnels.mu.Unlock()
	exchangeWith(t, c, listen(t, echoing), 10)
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.conns) < 2 || len(n.conns) > 1+busyTunnels {
		t.Errorf("%d tunnels", len(n.conns))
	}
}

// Readers and ports that stand still hold up themselves only.
func TestV1StalledAmongMany(t *testing.T) {
	n := newNode(t)
	c := n.client(t, keepWebSocket)
	flood := listen(t, func(conn *net.TCPConn) { io.Copy(conn, endless{}) })
	stuck := make(chan struct{})
	deaf := listen(t, func(*net.TCPConn) { <-stuck })
	t.Cleanup(func() { close(stuck) })
	for range 5 {
		defer reach(t, c, flood).Reset()
		conn := reach(t, c, deaf)
		defer conn.Reset()
		go conn.Write(make([]byte, 64<<20))
	}
	time.Sleep(300 * time.Millisecond)
	port := listen(t, echoing)
	var work sync.WaitGroup
	for range 300 {
		work.Go(func() { exchangeWith(t, c, port, 5_000) })
	}
	work.Wait()
	exchangeWith(t, c, port, 8<<20)
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.conns) > busyTunnels {
		t.Errorf("%d tunnels", len(n.conns))
	}
}

// The tunnel under it breaks: no end of file.
func TestV1TunnelBreaks(t *testing.T) {
	port := listen(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "half an ")
		io.Copy(io.Discard, conn)
	})
	n := newNode(t)
	c := n.client(t)
	conn := reach(t, c, port)
	defer conn.Close()
	mustRead(t, conn, "half an ")
	n.mu.Lock()
	for _, accepted := range n.conns {
		accepted.Close()
	}
	n.mu.Unlock()
	if _, err := io.ReadAll(conn); !errors.Is(err, ErrTunnel) || errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, ErrTunnel) {
		t.Errorf("write: %v", err)
	}
}

// Reset connections leave the tunnel to others, and nothing behind.
func TestV1ResetLeavesTunnel(t *testing.T) {
	flood := listen(t, func(conn *net.TCPConn) { io.Copy(conn, endless{}) })
	back := listen(t, echoing)
	n := newNode(t)
	c := n.client(t)
	for range 10 {
		conn := reach(t, c, flood)
		io.CopyN(io.Discard, conn, 1<<20)
		conn.Reset()
		exchangeWith(t, c, back, 1000)
	}
	within(t, 10*time.Second, "all ended", func() bool { _, ended := n.told(); return len(ended) == 20 })
	if got := c.tunnels.tunnels[0].conn.Streams(); got != 0 {
		t.Errorf("%d streams left", got)
	}
}

// Streams that are opened and reset at once are work for a while, of which there is
// only so much.
func TestV1RapidReset(t *testing.T) {
	dialer := stuck{new(atomic.Int32), make(chan struct{})}
	n := newNode(t, func(n *node) { n.Offers.Dialer = dialer })
	t.Cleanup(func() { close(dialer.release) })
	c := n.client(t)
	reach(t, c, 80).Reset()
	tunnel := c.tunnels.tunnels[0]
	for range 3 * maxServed {
		s, err := tunnel.conn.OpenStream(http.Header{"network": {"tcp"}, "port": {"80"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		s.Reset()
	}
	last := reach(t, c, 80)
	defer last.Close()
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
	if got := dialer.dials.Load(); got > maxServed {
		t.Errorf("%d dials at once", got)
	}
}

// stuck dials until it is released, whatever ends before.
type stuck struct {
	dials   *atomic.Int32
	release chan struct{}
}

func (s stuck) Dial(context.Context, target.Address) (pipe.Conn, error) {
	s.dials.Add(1)
	<-s.release
	return nil, errors.New("released")
}
