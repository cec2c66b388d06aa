package portforward

import (
	"context"
	"maps"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// stallLimit is how long a tunnel may be stuck and still take new connections. A
	// reader that is merely slower than the network makes much shorter pauses.
	stallLimit = 250 * time.Millisecond
	// maxConns is how many connections a tunnel carries; each is two streams, and one in
	// porthole.v1, of which the SPDY layer allows 2048.
	maxConns   = 1000
	maxConnsV1 = 2000
)

// clientTunnel is one upgraded connection and what the pool knows about it.
type clientTunnel struct {
	pool    *pool
	conn    *spdy.Conn
	v1      *tunnel.Client // over conn, nil if the server is a stock one
	started time.Time

	requests atomic.Uint64 // the last connection's requestID

	// Guarded by pool.mu.
	conns   int       // connections that the server may not be through with
	retired bool      // takes no more connections
	gone    bool      // leads to a pod that no longer exists, and does not count
	idle    time.Time // since when conns is 0
}

// openTunnel opens one tunnel.
func (c *Client) openTunnel(ctx context.Context, pingInterval time.Duration) (*clientTunnel, error) {
	start := time.Now()
	u, via, err := c.upgrade(ctx)
	if err != nil {
		return nil, err
	}
	t := &clientTunnel{pool: &c.tunnels, started: time.Now(), idle: time.Now()}
	cfg := spdy.Config{Batch: c.Batch, PingInterval: pingInterval, PeerClosed: func() bool { return peerClosed(u.conn) }}
	if isV1(u.protocol) {
		t.v1 = tunnel.NewClient(u, tunnel.ClientConfig{
			SPDY:        cfg,
			ConnClosed:  func() { t.pool.release(t, true) },
			SandboxGone: t.pool.retireOlder,
		})
		t.conn = t.v1.Conn
	} else {
		t.conn = spdy.New(u, cfg)
	}
	c.tunnels.log.Debug("tunnel opened", "via", via, "protocol", u.protocol, "took", time.Since(start))
	return t, nil
}

// lost reports whether the tunnel has been silent for longer than it may; pool.mu is held.
func (t *clientTunnel) lost() bool {
	p, last := t.pool, t.conn.LastRead()
	switch {
	case t.v1 == nil:
		return time.Since(last) >= silenceLimit
	case p.limit < 0:
		return false
	case last.Before(p.woke):
		return time.Since(p.woke) >= wakeTime
	}
	return time.Since(last) >= p.limit
}

// acceptsNew reports whether the tunnel is a good place for a new connection; pool.mu is
// held. If nothing has come since a sleep, the network may be another one by now.
func (t *clientTunnel) acceptsNew() bool {
	limit := maxConns
	if t.v1 != nil {
		limit = maxConnsV1
	}
	last := t.conn.LastRead()
	return !t.retired && t.conns < limit &&
		t.conn.Stalled() < stallLimit && time.Since(last) < t.pool.silence && !last.Before(t.pool.woke)
}

// dial opens a connection without waiting for the server. In the stock protocol it opens two
// streams in one write: the error stream first, since the server begins with the second.
func (t *clientTunnel) dial(to target.Address) (pipe.Conn, error) {
	if t.v1 != nil {
		return t.v1.Dial(to)
	}
	port, err := to.TCPOnly()
	if err != nil {
		return nil, err
	}
	header := spdy.Header{
		"streamType": {"error"},
		"port":       {strconv.Itoa(int(port))},
		"requestID":  {strconv.FormatUint(t.requests.Add(1), 10)},
	}
	t.conn.Cork()
	defer t.conn.Uncork()
	errorStream, err := t.conn.OpenStream(header, true)
	if err != nil {
		return nil, err
	}
	header = maps.Clone(header) // the stream keeps it
	header["streamType"] = []string{"data"}
	data, err := t.conn.OpenStream(header, false)
	if err != nil {
		errorStream.Reset()
		return nil, err
	}
	c := &stockConn{tunnel: t, port: port, opened: time.Now(), data: data, errorStream: errorStream,
		over: make(chan struct{}), closed: make(chan struct{})}
	if !t.pool.watch(c) {
		errorStream.Reset()
		data.Reset()
		return nil, net.ErrClosed
	}
	return c, nil
}
