package portforward

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
)

const (
	// stallLimit is how long a tunnel may be stuck and still take new
	// connections. A reader that is merely slower than the network makes
	// pauses much shorter than that.
	stallLimit = 250 * time.Millisecond
	// maxConns is how many connections a tunnel carries; each is two streams, and
	// one in porthole.v1, of which the SPDY layer allows 2048.
	maxConns   = 1000
	maxConnsV1 = 2000
)

// tunnel is one upgraded connection and what the pool knows about it.
type tunnel struct {
	pool *pool
	conn *spdy.Conn
	v1   bool // porthole.v1: connections in it do not hold each other up

	heard atomic.Int64 // when octets last came, in ns after born
	born  time.Time

	requests atomic.Uint64 // the last connection's requestID

	// Guarded by pool.mu.
	conns   int       // connections that the server may not be through with
	retired bool      // takes no more
	gone    bool      // leads to a pod that is no more, and does not count
	idle    time.Time // since when conns is 0
}

// openTunnel opens one tunnel.
func (c *Client) openTunnel(ctx context.Context, pingInterval time.Duration) (*tunnel, error) {
	start := time.Now()
	u, via, err := c.upgrade(ctx)
	if err != nil {
		return nil, err
	}
	t := &tunnel{pool: &c.tunnels, v1: isV1(u.protocol), born: time.Now(), idle: time.Now()}
	t.conn = spdy.New(listening{u, t}, spdy.Config{
		PingInterval: pingInterval, FlowControl: t.v1, Gone: func() bool { return gone(u.conn) },
	})
	c.tunnels.log.Debug("tunnel opened", "via", via, "protocol", u.protocol, "took", time.Since(start))
	return t, nil
}

// listening is a tunnel's transport that keeps the time of the last octets.
type listening struct {
	io.ReadWriteCloser
	tunnel *tunnel
}

func (l listening) Read(p []byte) (int, error) {
	n, err := l.ReadWriteCloser.Read(p)
	if n > 0 {
		l.tunnel.heard.Store(int64(time.Since(l.tunnel.born)))
	}
	return n, err
}

// silence is how long nothing has come, while the machine was awake.
func (t *tunnel) silence() time.Duration {
	return time.Since(t.born) - time.Duration(t.heard.Load())
}

// doubtful says whether nothing has come since this process went on after a sleep: the
// network may be another one by now; pool.mu is held.
func (t *tunnel) doubtful() bool {
	return t.born.Add(time.Duration(t.heard.Load())).Before(t.pool.woke)
}

// lost says whether the tunnel has been silent for longer than it may; pool.mu is held.
func (t *tunnel) lost() bool {
	switch p := t.pool; {
	case !t.v1:
		return t.silence() >= silenceLimit
	case p.limit < 0:
		return false
	case t.doubtful():
		return time.Since(p.woke) >= wakeTime
	}
	return t.silence() >= t.pool.limit
}

// sociable says whether the tunnel is a good place for a new connection;
// pool.mu is held.
func (t *tunnel) sociable() bool {
	limit := maxConns
	if t.v1 {
		limit = maxConnsV1
	}
	return !t.retired && t.conns < limit &&
		t.conn.Stalled() < stallLimit && t.silence() < t.pool.silence && !t.doubtful()
}

// dial opens a connection, and waits for nothing.
func (t *tunnel) dial(port uint16) (pipe.Conn, error) {
	if t.v1 {
		return t.dialV1(port)
	}
	return t.dialStock(port)
}

// dialStock opens a connection's two streams in one write. The error stream comes
// first, since the server begins with the second.
func (t *tunnel) dialStock(port uint16) (*Conn, error) {
	header := http.Header{
		"streamType": {"error"},
		"port":       {strconv.Itoa(int(port))},
		"requestID":  {strconv.FormatUint(t.requests.Add(1), 10)},
	}
	t.conn.Cork()
	defer t.conn.Uncork()
	text, err := t.conn.OpenStream(header, true)
	if err != nil {
		return nil, err
	}
	header = header.Clone() // the stream keeps it
	header["streamType"] = []string{"data"}
	data, err := t.conn.OpenStream(header, false)
	if err != nil {
		text.Reset()
		return nil, err
	}
	c := &Conn{tunnel: t, port: port, opened: time.Now(), data: data, text: text,
		over: make(chan struct{}), closed: make(chan struct{})}
	if !t.pool.watch(c) {
		text.Reset()
		data.Reset()
		return nil, net.ErrClosed
	}
	return c, nil
}
