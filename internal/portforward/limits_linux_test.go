package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// smallSockets reaches ports of this machine, and one of them by sockets whose buffers are soon full, which makes it slow.
type smallSockets struct{ port uint16 }

func (s smallSockets) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	conn, err := loopback{}.Dial(ctx, to)
	if err != nil || to.Port != s.port {
		return conn, err
	}
	return conn, errors.Join(conn.(*net.TCPConn).SetWriteBuffer(4<<10), conn.(*net.TCPConn).SetReadBuffer(4<<10))
}

// attacks are ways to have a server hold what nobody takes.
var attacks = map[string]struct {
	port   func(*net.TCPConn) // what the port does
	client func(remote)       // what the client does
}{
	"port reads nothing": {
		func(c *net.TCPConn) { _ = c.SetReadBuffer(4 << 10); <-closed(c) },
		func(c remote) { sendForEver(c) },
	},
	"client reads nothing": {func(c *net.TCPConn) { sendForEver(c) }, func(remote) {}},
}

func sendForEver(w io.Writer) {
	for piece := make([]byte, 32<<10); ; {
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}

// closed is closed once the peer has reset the connection, without reading from it.
func closed(c *net.TCPConn) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		for !peerClosed(c) {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return over
}

// Three tunnels full of connections that are not read cost no more than the budget,
// beside them a connection in another tunnel works, and then nothing of it is left.
func TestMemoryIsBounded(t *testing.T) {
	const size, perTunnel = 16 << 20, 80
	stock := func(c *Client) { c.Transport = stockOnly{c.Transport} }
	for protocol, form := range map[string]func(*Client){"v1": func(*Client) {}, "stock": stock} {
		for name, attack := range attacks {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				testenv.NoLeaks(t)
				echo := testenv.ServeTCP(t, testenv.Echo)
				port := testenv.ServeTCP(t, attack.port)
				n := newNode(t, func(n *node) {
					n.Memory, n.MaxTunnels, n.Pending.Dialer = size, 32, smallSockets{port}
				})
				one := func(c *Client) { c.SPDYOnly, c.MaxTunnels = true, 1; form(c) }
				var clients []*Client
				var conns []remote
				for range 3 {
					c := n.client(t, one)
					clients = append(clients, c)
					for range perTunnel {
						conns = append(conns, reach(t, c, port))
					}
				}
				var work sync.WaitGroup
				for _, conn := range conns {
					work.Go(func() { attack.client(conn) })
				}
				// A stock tunnel takes no more once one of its connections is full.
				within(t, time.Minute, "the attack is under way", func() bool { return n.Load().Memory > size/8 })
				innocent := n.client(t, one)
				for range 5 {
					wantEcho(t, innocent, echo, 100<<10)
					if held := n.Load().Memory; held > size {
						t.Errorf("%d bytes are held, of %d", held, size)
					}
				}
				for _, c := range clients {
					c.Close()
				}
				work.Wait()
				within(t, time.Minute, "what was held is given back", func() bool { return n.Load().Memory < size/8 })
				innocent.Close()
				within(t, time.Minute, "all is given back", func() bool { return n.Load() == Load{} })
			})
		}
	}
}

// wantEcho has n bytes echoed.
func wantEcho(t *testing.T, c *Client, port uint16, n int) {
	t.Helper()
	conn := reach(t, c, port)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		_, _ = conn.Write(make([]byte, n))
		_ = conn.CloseWrite()
	})
	if got, err := io.Copy(io.Discard, conn); got != int64(n) || err != nil {
		t.Errorf("%d of %d bytes came back: %v", got, n, err)
	}
}

// Many connections at once in one tunnel are all served, by windows that shrink.
func TestManyConnectionsInLittleMemory(t *testing.T) {
	testenv.NoLeaks(t)
	n := newNode(t)
	port := testenv.ServeTCP(t, testenv.Echo)
	client := n.client(t, func(c *Client) { c.SPDYOnly = true })
	var work sync.WaitGroup
	var open []remote
	for range 1000 {
		conn := reach(t, client, port)
		open = append(open, conn)
		work.Go(func() {
			message := make([]byte, 100<<10)
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			go func() { _, _ = conn.Write(message) }()
			if _, err := io.ReadFull(conn, message); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if held := n.Load().Memory; held > defaultServerMemory {
		t.Errorf("%d bytes are held", held)
	}
	for _, conn := range open {
		conn.Close()
	}
	within(t, time.Minute, "all is given back", func() bool { return n.Load().Memory == 0 })
	// And windows grow again.
	wantEcho(t, client, port, 4<<20)
}

// A tunnel too many ends one that is idle. If none is, the pod with most has one less,
// and where it is the one that asks, it is refused.
func TestTunnelsAreBounded(t *testing.T) {
	testenv.NoLeaks(t)
	n := newNode(t, func(n *node) { n.MaxTunnels, n.MaxPodTunnels = 6, 4 })
	port := testenv.ServeTCP(t, testenv.Echo)
	pods := make(map[string]*podOf)
	for _, name := range []string{"a", "b", "c"} {
		pods[name] = &podOf{n, name}
	}
	var busy []net.Conn
	for range 4 {
		busy = append(busy, pods["a"].busy(t, port))
	}
	if err := pods["a"].connect(t); !isRefused(err) {
		t.Errorf("a pod with as many as it may have: %v, want 503", err)
	}
	if err := pods["b"].connect(t); err != nil { // and stays idle
		t.Fatal(err)
	}
	busy = append(busy, pods["b"].busy(t, port))
	busy = append(busy, pods["b"].busy(t, port)) // in place of the idle one
	busy = append(busy, pods["c"].busy(t, port)) // in place of one of a's
	within(t, time.Minute, "one of the pod with most has ended", func() bool { return tunnelsTo(n, "a") == 3 })
	if got := n.Load().Tunnels; got != 6 {
		t.Errorf("%d tunnels, want 6", got)
	}
	if err := pods["a"].connect(t); !isRefused(err) {
		t.Errorf("the pod with most: %v, want 503", err)
	}
	for i, conn := range busy {
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, werr := conn.Write([]byte("x"))
		_, rerr := io.ReadFull(conn, make([]byte, 1))
		if ended, newest := errors.Join(werr, rerr) != nil, i == 3; ended != newest {
			t.Errorf("connection %d: %v, %v", i, werr, rerr)
		}
	}
}

// podOf opens tunnels to one of several pods.
type podOf struct {
	n    *node
	name string
}

func (p *podOf) client(t *testing.T) *Client {
	t.Helper()
	p.n.mu.Lock()
	p.n.Pending.Pod = p.name
	p.n.mu.Unlock()
	return p.n.client(t, func(c *Client) { c.SPDYOnly, c.MaxTunnels = true, 1 })
}

func (p *podOf) connect(t *testing.T) error {
	t.Helper()
	return p.client(t).Connect(t.Context())
}

// busy is a connection that has been answered, in a tunnel of its own.
func (p *podOf) busy(t *testing.T, port uint16) net.Conn {
	t.Helper()
	conn := reach(t, p.client(t), port)
	mustWrite(t, conn, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(fmt.Errorf("pod %s: %w", p.name, err))
	}
	return conn
}

func isRefused(err error) bool {
	var refused *StatusError
	return errors.As(err, &refused) && refused.Code == http.StatusServiceUnavailable
}

func tunnelsTo(n *node, pod string) int {
	n.tunnels.mu.Lock()
	defer n.tunnels.mu.Unlock()
	return n.tunnels.pods[pod]
}
