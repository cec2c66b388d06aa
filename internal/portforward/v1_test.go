package portforward

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

var _ net.Conn = (*tunnel.Conn)(nil)

func TestV1Conn(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			peers := make(chan net.Conn, 1)
			done := make(chan struct{})
			port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
				peers <- conn
				<-done
			})
			c := newNode(t).client(t, way)
			c1 = reach(t, c, port)
			if _, ok := c1.(*tunnel.Conn); !ok {
				t.Fatalf("connection is a %T", c1)
			}
			return c1, <-peers, func() { close(done); c.Close() }, nil
		})
	})
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
		port := testenv.ServeTCP(t, testenv.Echo)
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
	exchangeWith(t, c, testenv.ServeTCP(t, testenv.Echo), 10)
	c.tunnels.mu.Lock()
	full := c.tunnels.tunnels[0]
	full.conns += maxConnsV1
	c.tunnels.mu.Unlock()
	exchangeWith(t, c, testenv.ServeTCP(t, testenv.Echo), 10)
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
	flood := testenv.ServeTCP(t, func(conn *net.TCPConn) { io.Copy(conn, endless{}) })
	stuck := make(chan struct{})
	deaf := testenv.ServeTCP(t, func(*net.TCPConn) { <-stuck })
	t.Cleanup(func() { close(stuck) })
	for range 5 {
		defer reach(t, c, flood).Reset()
		conn := reach(t, c, deaf)
		defer conn.Reset()
		go conn.Write(make([]byte, 64<<20))
	}
	time.Sleep(300 * time.Millisecond)
	port := testenv.ServeTCP(t, testenv.Echo)
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

// Reset connections leave the tunnel to others, and nothing behind.
func TestV1ResetLeavesTunnel(t *testing.T) {
	flood := testenv.ServeTCP(t, func(conn *net.TCPConn) { io.Copy(conn, endless{}) })
	back := testenv.ServeTCP(t, testenv.Echo)
	n := newNode(t)
	c := n.client(t)
	for range 10 {
		conn := reach(t, c, flood)
		io.CopyN(io.Discard, conn, 1<<20)
		conn.Reset()
		exchangeWith(t, c, back, 1000)
	}
	within(t, 10*time.Second, "all ended", func() bool { _, ended := n.told(); return len(ended) == 20 })
	within(t, 10*time.Second, "streams gone", func() bool {
		c.tunnels.mu.Lock()
		defer c.tunnels.mu.Unlock()
		return !slices.ContainsFunc(c.tunnels.tunnels, func(t *clientTunnel) bool { return t.conn.Streams() > 0 })
	})
}
