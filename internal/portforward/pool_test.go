package portforward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/target"
)

// Connections one after the other use one tunnel.
func TestTunnelIsReused(t *testing.T) {
	s := start(t, echo)
	c := s.client(t)
	for range 50 {
		exchange(t, c)
	}
	if n := s.opened(); n > 5 { // a slow machine may have seen the need for spares
		t.Errorf("%d tunnels for connections one after the other", n)
	}
}

// Connections with time between them get a tunnel each, and what is no longer
// used is closed but for one.
func TestPoolGrowsAndShrinks(t *testing.T) {
	s := start(t, echo)
	c := s.client(t, func(c *Client) { c.IdleTime = 300 * time.Millisecond })
	tunnels := map[*clientTunnel]int{}
	var conns []*stockConn
	for i := range 5 {
		conn := dial(t, c, 80)
		conns = append(conns, conn)
		tunnels[conn.tunnel]++
		within(t, 5*time.Second, "a spare tunnel", func() bool { return c.ready() == 1 && s.open() == i+2 })
	}
	if len(tunnels) != 5 {
		t.Errorf("5 connections in %d tunnels", len(tunnels))
	}
	for _, conn := range conns {
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	within(t, 5*time.Second, "one tunnel left", func() bool { return s.open() == 1 })
	c.tunnels.mu.Lock()
	last := c.tunnels.tunnels[0]
	c.tunnels.mu.Unlock()
	conn := dial(t, c, 80)
	defer conn.Close()
	if conn.tunnel != last {
		t.Error("the last tunnel was not used")
	}
}

// A burst does not wait for tunnels, whose number stays bounded.
func TestBurstShares(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		s := start(t, echo)
		c := s.client(t, way, func(c *Client) { c.MaxTunnels = 4 })
		var clients sync.WaitGroup
		ready := make(chan struct{})
		for range 200 {
			clients.Go(func() {
				conn := dial(t, c, 80)
				defer conn.Close()
				mustWrite(t, conn, "x")
				mustRead(t, conn, "x")
				<-ready
				mustWrite(t, conn, "y")
				mustRead(t, conn, "y")
			})
		}
		time.Sleep(200 * time.Millisecond)
		if n := s.open(); n > 4 {
			t.Errorf("%d tunnels", n)
		}
		close(ready)
		clients.Wait()
	})
}

// A connection that nobody reads stops its own tunnel, and others go elsewhere.
func TestStalledTunnelGetsNoCompany(t *testing.T) {
	s := start(t, func(r *request) {
		if r.port == 81 {
			io.Copy(r.data, endless{})
			return
		}
		echo(r)
	})
	c := s.client(t)
	stalled := dial(t, c, 81)
	defer stalled.Reset()
	within(t, 5*time.Second, "stall", func() bool { return stalled.tunnel.conn.Stalled() > stallLimit })
	for range 20 {
		exchange(t, c)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Where no more tunnels are allowed a stalled one is better than none.
func TestStalledAtTheLimit(t *testing.T) {
	s := start(t, func(r *request) { io.Copy(r.data, endless{}) })
	c := s.client(t, func(c *Client) { c.MaxTunnels = 1 })
	stalled := dial(t, c, 81)
	defer stalled.Reset()
	within(t, 5*time.Second, "stall", func() bool { return stalled.tunnel.conn.Stalled() > stallLimit })
	dial(t, c, 80).Reset()
	if n := s.opened(); n != 1 {
		t.Errorf("%d tunnels", n)
	}
}

// A reset in the middle of a download leaves the tunnel to the next connection,
// once the server is through.
func TestResetLeavesTunnel(t *testing.T) {
	s := start(t, func(r *request) {
		if r.port == 81 {
			io.Copy(r.data, endless{})
			r.fail("error forwarding port 81: broken pipe")
			return
		}
		echo(r)
	})
	c := s.client(t, func(c *Client) { c.MaxTunnels = 1 })
	for range 10 {
		download := dial(t, c, 81)
		io.CopyN(io.Discard, download, 1<<20)
		download.Reset()
		exchange(t, c)
	}
	if n := s.opened(); n > 5 { // a server on a slow machine may be through too late
		t.Errorf("%d tunnels for 10 resets", n)
	}
}

// A tunnel whose server does not confirm the end of a connection gets no other connection.
func TestUnconfirmedEndRetiresTunnel(t *testing.T) {
	hold := make(chan struct{})
	s := start(t, func(r *request) {
		if r.port == 81 {
			<-hold
			return
		}
		echo(r)
	})
	t.Cleanup(func() { close(hold) })
	c := s.client(t)
	conn := dial(t, c, 81)
	conn.Reset()
	within(t, drainTime+time.Second, "tunnel closed", func() bool { return conn.tunnel.conn.Err() != nil })
	exchange(t, c)
}

// What was sent to a server that is through may clog its reading, so the tunnel is
// not used again.
func TestUndrainedTunnelIsLeft(t *testing.T) {
	s := start(t, func(r *request) {
		io.ReadFull(r.data, make([]byte, 1))
		r.finish()
	})
	c := s.client(t)
	conn := dial(t, c, 80)
	defer conn.Close()
	go conn.Write(make([]byte, 64<<20)) // until the server is through: what follows its end is on its way
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	within(t, time.Second, "tunnel closed", func() bool { return conn.tunnel.conn.Err() != nil })
}

// A broken tunnel is replaced, whether it was in use or not.
func TestBrokenTunnelIsReplaced(t *testing.T) {
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			s := start(t, echo)
			c := s.client(t)
			for range 10 {
				exchange(t, c)
				if busy {
					defer dial(t, c, 80).Reset()
				}
				awaitBreak(t, s, c)
			}
			exchange(t, c)
		})
	}
}

// awaitBreak breaks all tunnels, those under way as well, until the client has none.
func awaitBreak(t *testing.T, s *server, c *Client) {
	t.Helper()
	within(t, 5*time.Second, "tunnels are broken", func() bool {
		s.cut()
		c.tunnels.mu.Lock()
		defer c.tunnels.mu.Unlock()
		c.tunnels.clean()
		return len(c.tunnels.tunnels) == 0 && c.tunnels.opening == nil
	})
}

// A tunnel under which the network has gone away is noticed, and left.
func TestSilentTunnelIsLeft(t *testing.T) {
	s := start(t, echo)
	c, network := through(t, s.http.URL+"/portforward", func(c *Client) { c.PingInterval = 100 * time.Millisecond })
	exchange(t, c)
	conn := dial(t, c, 80)
	defer conn.Reset()
	mustWrite(t, conn, "x")
	mustRead(t, conn, "x")
	time.Sleep(300 * time.Millisecond)
	within(t, 10*time.Second, "pings keep the tunnel", conn.tunnel.mayTake)
	defer network.hush()()
	within(t, 10*time.Second, "a silence", func() bool { return time.Since(tunnelOf(conn).LastRead()) >= c.tunnels.silence })
	other := dial(t, c, 80)
	defer other.Reset()
	if other.tunnel == conn.tunnel {
		t.Error("silent tunnel was used")
	}
}

// ready returns how many tunnels wait for a connection.
func (c *Client) ready() int {
	c.tunnels.mu.Lock()
	defer c.tunnels.mu.Unlock()
	_, idle, _ := c.tunnels.stats()
	return idle
}

func (t *clientTunnel) mayTake() bool {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	return t.acceptsNew()
}

func TestDialEnds(t *testing.T) {
	s := start(t, echo)
	stuck := make(chan struct{})
	s.answer = func(http.ResponseWriter, *http.Request) bool { <-stuck; return true }
	t.Cleanup(func() { close(stuck) })
	c := s.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx, target.TCPPort(80)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
	dialed := make(chan error)
	go func() {
		_, err := c.Dial(t.Context(), target.TCPPort(80))
		dialed <- err
	}()
	time.Sleep(20 * time.Millisecond)
	c.Close()
	if err := <-dialed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial during close: %v", err)
	}
	if _, err := c.Dial(t.Context(), target.TCPPort(80)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial after close: %v", err)
	}
}

// An opening that was under way before a Dial says nothing about the server that the
// Dial meets.
func TestDialOutlivesOlderOpening(t *testing.T) {
	s := start(t, echo)
	came, leave := make(chan struct{}), make(chan struct{})
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if len(s.requests()) > 1 {
			return false
		}
		close(came)
		<-leave
		panic(http.ErrAbortHandler)
	}
	c := s.client(t)
	first := make(chan error, 1)
	go func() { first <- c.Connect(t.Context()) }()
	<-came
	time.AfterFunc(50*time.Millisecond, func() { close(leave) }) // exchange waits by then
	exchange(t, c)
	if err := <-first; err == nil {
		t.Error("an opening that was cut succeeded")
	}
}

// Close while connections come and go leaves nothing behind.
func TestCloseUnderLoad(t *testing.T) {
	s := start(t, echo)
	c := s.client(t)
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			for {
				conn, err := c.Dial(t.Context(), target.TCPPort(80))
				if err != nil {
					return
				}
				if _, err := conn.Write([]byte("x")); err == nil {
					conn.Read(make([]byte, 1))
				}
				conn.Close()
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	c.Close()
	clients.Wait()
	within(t, 2*time.Second, "server's tunnels gone", func() bool { return s.open() == 0 })
	t.Logf("%d tunnels", s.opened())
}
