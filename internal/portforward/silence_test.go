package portforward

import (
	"errors"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// network is the way to a server. What is under way in it can be lost, as when packets are
// dropped: nobody is told. New connections get through.
type network struct {
	net.Listener
	work sync.WaitGroup

	mu    sync.Mutex
	conns []*wire
}

// wire is one connection through a network.
type wire struct {
	net.Conn
	silent sync.RWMutex // held for writing while nothing passes
}

func newNetwork(t *testing.T, target string) *network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{Listener: l}
	n.work.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target)
			if err != nil {
				a.Close()
				continue
			}
			n.join(a, b)
		}
	})
	t.Cleanup(func() {
		l.Close()
		n.mu.Lock()
		for _, w := range n.conns {
			w.Close()
		}
		n.mu.Unlock()
		n.work.Wait()
	})
	return n
}

func (n *network) join(a, b net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	up, down := &wire{Conn: a}, &wire{Conn: b}
	n.conns = append(n.conns, up, down)
	n.work.Go(func() { up.carry(down) })
	n.work.Go(func() { down.carry(up) })
}

// carry passes on what comes, and nothing while the wire is silent; the end, too.
func (w *wire) carry(to *wire) {
	buf := make([]byte, 32<<10)
	for {
		n, err := w.Read(buf)
		w.silent.RLock()
		if n > 0 {
			to.Write(buf[:n])
		}
		if err != nil {
			to.Close()
		}
		w.silent.RUnlock()
		if err != nil {
			return
		}
	}
}

// hush makes all connections silent that there are, until the returned func is called.
func (n *network) hush() (again func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := append([]*wire(nil), n.conns...)
	for _, w := range all {
		w.silent.Lock()
	}
	return sync.OnceFunc(func() {
		for _, w := range all {
			w.silent.Unlock()
		}
	})
}

// through is a client whose way to a server is a network of its own.
func through(t *testing.T, server string, edit ...func(*Client)) (*Client, *network) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, u.Host)
	u.Host = n.Addr().String()
	return newClient(t, u, edit...), n
}

// A connection whose server has fallen silent fails, and not with an end of file. What is
// connected meanwhile finds another way.
func TestSilence(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		node, port := newNode(t), testenv.ServeTCP(t, testenv.Echo)
		c, network := through(t, node.http.URL+"/pod", way, func(c *Client) { c.Silence = 3 * time.Second })
		conn := reach(t, c, port)
		defer conn.Close()
		mustWrite(t, conn, "hello")
		mustRead(t, conn, "hello")
		defer network.hush()()
		conn.SetReadDeadline(time.Now().Add(testenv.Patience))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrTunnel) || !errors.Is(err, ErrSilent) {
			t.Errorf("read: %v", err)
		}
		exchangeWith(t, c, port, 10)
	})
}

// One that is only silent for less than that goes on.
func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	node, port := newNode(t), testenv.ServeTCP(t, testenv.Echo)
	c, network := through(t, node.http.URL+"/pod", func(c *Client) { c.PingInterval = time.Second })
	conn := reach(t, c, port)
	defer conn.Close()
	mustWrite(t, conn, "hello")
	mustRead(t, conn, "hello")
	again := network.hush()
	within(t, 20*time.Second, "a silence", func() bool { return time.Since(tunnelOf(conn).LastRead()) >= c.tunnels.silence })
	again()
	mustWrite(t, conn, "alive")
	mustRead(t, conn, "alive")
}

// A stock server may be silent for a stalled port's sake.
func TestStockServerMayBeSilent(t *testing.T) {
	t.Parallel()
	s := start(t, echo)
	c, network := through(t, s.http.URL+"/portforward", func(c *Client) { c.Silence = 200 * time.Millisecond })
	conn := dial(t, c, 80)
	defer conn.Close()
	mustWrite(t, conn, "hello")
	mustRead(t, conn, "hello")
	again := network.hush()
	within(t, 20*time.Second, "a silence", func() bool { return time.Since(tunnelOf(conn).LastRead()) >= 10*c.Silence })
	again()
	mustWrite(t, conn, "alive")
	mustRead(t, conn, "alive")
}

// After a sleep new connections get a new tunnel, until the old one has shown that it
// lives; if it does not, it is given up soon.
func TestWakes(t *testing.T) {
	t.Parallel()
	for name, wake := range map[string]func(*Client, *atomic.Int64){
		"machine": func(_ *Client, asleep *atomic.Int64) { asleep.Add(int64(time.Hour)) },
		"process": func(c *Client, _ *atomic.Int64) {
			c.tunnels.mu.Lock()
			defer c.tunnels.mu.Unlock()
			c.tunnels.looked = c.tunnels.looked.Add(-time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node, port := newNode(t), testenv.ServeTCP(t, testenv.Echo)
			var asleep atomic.Int64
			c, network := through(t, node.http.URL+"/pod", func(c *Client) {
				c.PingInterval = time.Hour // only that at the end of a sleep; Silence makes it 15 s
				c.asleep = func() time.Duration { return time.Duration(asleep.Load()) }
			})
			conn := reach(t, c, port)
			defer conn.Close()
			mustWrite(t, conn, "hello")
			mustRead(t, conn, "hello")

			wake(c, &asleep)
			within(t, 10*time.Second, "the tunnel shows that it lives", func() bool {
				c.tunnels.mu.Lock()
				defer c.tunnels.mu.Unlock()
				return !c.tunnels.woke.IsZero() && !tunnelOf(conn).LastRead().Before(c.tunnels.woke)
			})
			mustWrite(t, conn, "hello")
			mustRead(t, conn, "hello")

			defer network.hush()()
			woken := time.Now()
			wake(c, &asleep)
			within(t, 10*time.Second, "another tunnel", func() bool {
				other := reach(t, c, port)
				defer other.Close()
				return tunnelOf(other) != tunnelOf(conn)
			})
			conn.SetReadDeadline(time.Now().Add(testenv.Patience))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrSilent) {
				t.Errorf("read: %v", err)
			}
			if took := time.Since(woken); took < wakeTime {
				t.Errorf("given up after %v", took)
			}
			exchangeWith(t, c, port, 10)
		})
	}
}
