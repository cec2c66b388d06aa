// Package portforward is both ends of the port-forward protocol of Kubernetes: many
// connections to TCP ports of a pod in few tunnels, each tunnel one upgraded HTTP
// connection. It must not know how requests are authenticated, which pod it is or how
// its ports are reached, nor anything of Kubernetes' libraries.
package portforward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Client reaches the ports of one pod through one port-forward endpoint. Set the
// fields, of which URL and Transport are needed, and call Close in the end. Its
// methods are safe to call at the same time.
//
// A connection has a tunnel to itself if one is idle; then other connections cannot hold it
// up. If none is, it shares one at once, and more are opened for the connections to come. With
// a Server at the other end all share one tunnel, since in porthole.v1 none can hold up
// another. docs/protocol.md has the promises.
type Client struct {
	// URL is the endpoint: .../api/v1/namespaces/NS/pods/POD/portforward.
	URL *url.URL
	// Transport makes the requests and authenticates them. It must speak
	// HTTP/1.1 only, the Body of its 101 responses must be an
	// io.ReadWriteCloser, as net/http's is, and must outlive the request's
	// context.
	Transport http.RoundTripper
	// SPDYOnly leaves out the WebSocket, which is otherwise tried where SPDY's own
	// upgrade is refused or swallowed.
	SPDYOnly bool
	// StockOnly has the stock protocol spoken with servers that speak porthole.v1 too.
	StockOnly bool
	// KeepWebSocket has the WebSocket tried first.
	KeepWebSocket bool
	// Ways is what is known of the way to the server. The Clients of one API server's pods
	// share it; nil means that this Client shares it with no other.
	Ways *Ways
	// MaxTunnels is how many tunnels may exist at once; 0 means 64. Beyond
	// it connections share.
	MaxTunnels int
	// Batch is that of each tunnel (spdy.Config); 0 is its default.
	Batch int
	// IdleTime is how long a tunnel is kept that nobody uses; one is always
	// kept. 0 means a minute.
	IdleTime time.Duration
	// PingInterval is how often a tunnel is asked whether it is alive. One that
	// brings nothing for one and a half intervals gets no new connections,
	// and if it has none it is closed. 0 means 5 s, as stock clients have it.
	PingInterval time.Duration
	// Silence is how long a server of ours, which always answers pings, may be
	// silent before its tunnel is given up, and all connections in it fail. Time that
	// the machine sleeps does not count; after it the server has 10 s to answer. 0
	// means 30 s, a negative duration for ever. Stock servers have 15 minutes, since
	// a stalled port keeps them from answering.
	Silence time.Duration
	// Again is called before a tunnel is opened after one that failed with err, the
	// last of so many failures in a row, and returns when that may be; ctx ends with the
	// Client. However many connections wait, there is one call at a time. nil has
	// tunnels opened whenever they are wanted.
	Again func(ctx context.Context, failures int, err error)
	// Log gets what explains a Client's behaviour at level debug; nil means no log.
	Log *slog.Logger

	asleep   func() time.Duration // a test's, or nil
	refusals atomic.Int32         // since both ways were refused: they are tried in turn
	once     sync.Once
	tunnels  pool
}

const (
	defaultMaxTunnels   = 64
	defaultIdleTime     = time.Minute
	defaultPingInterval = 5 * time.Second
	defaultSilence      = 30 * time.Second
	// dialAttempts is how many tunnels a Dial tries. One may break under it,
	// and so may its successor when the server is going down; more would hide
	// that from the caller.
	dialAttempts = 3
)

// Dial opens a connection to a port of the pod, or to what else its node can reach: that is
// ErrUnsupported for all but TCP ports where the node is a stock one. With a warm tunnel it returns
// at once and without having heard from the server: bytes can be written, and if
// the port turns out to be closed, reading and writing fail with *PortError. The
// context ends the wait for a tunnel, and means nothing to the connection.
//
// If the tunnel turns out to be broken before anything was sent, another is taken.
// The error is of the opening: *StatusError if the server refused, net.ErrClosed
// after Close. The Conn is a net.Conn with half-close and Reset.
func (c *Client) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	c.init()
	for attempt := 1; ; attempt++ {
		t, err := c.tunnels.acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("open tunnel: %w", err)
		}
		conn, err := t.dial(to)
		if err == nil {
			return conn, nil
		}
		if errors.Is(err, target.ErrUnsupported) {
			c.tunnels.release(t, true)
			return nil, err
		}
		c.tunnels.release(t, false)
		if attempt == dialAttempts {
			return nil, fmt.Errorf("open connection: %w", err)
		}
	}
}

// Listen has the pod listen on an address, by tunnel.Client.Listen: ErrUnsupported where the node is a stock
// one, or an older one of ours. The tunnel stays for as long as the Listener.
func (c *Client) Listen(ctx context.Context, at target.Endpoint, session string) (*route.Listener, error) {
	c.init()
	for attempt := 1; ; attempt++ {
		t, err := c.tunnels.acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("open tunnel: %w", err)
		}
		if t.v1 == nil {
			c.tunnels.release(t, true)
			return nil, fmt.Errorf("the pod's node runs no porthole: %w", target.ErrUnsupported)
		}
		l, err := t.v1.Listen(ctx, at, session)
		if err == nil {
			return l, nil // which releases the tunnel when it is closed
		}
		var refused *tunnel.PortError
		answered := errors.As(err, &refused)
		c.tunnels.release(t, answered)
		if answered || ctx.Err() != nil || attempt == dialAttempts {
			return nil, err
		}
	}
}

// Listening tells what listens in the pod, by tunnel.Client.Listening: ErrUnsupported where the node is a stock one, or
// an older one of ours.
func (c *Client) Listening(ctx context.Context, tell func([]target.Socket)) error {
	c.init()
	t, err := c.tunnels.acquire(ctx)
	if err != nil {
		return fmt.Errorf("open tunnel: %w", err)
	}
	defer c.tunnels.release(t, true)
	if t.v1 == nil {
		return fmt.Errorf("the pod's node runs no porthole: %w", target.ErrUnsupported)
	}
	return t.v1.Listening(ctx, tell)
}

// Connect makes sure that there is a tunnel for a Dial to come, and returns why
// there cannot be one: *StatusError if the server refuses.
func (c *Client) Connect(ctx context.Context) error {
	c.init()
	t, err := c.tunnels.acquire(ctx)
	if err != nil {
		return fmt.Errorf("open tunnel: %w", err)
	}
	c.tunnels.release(t, true)
	return nil
}

// Carries makes sure that there is a tunnel, as Connect does, and returns ErrUnsupported if its
// server cannot carry connections to an address, whatever the pod has there.
func (c *Client) Carries(ctx context.Context, to target.Address) error {
	c.init()
	t, err := c.tunnels.acquire(ctx)
	if err != nil {
		return fmt.Errorf("open tunnel: %w", err)
	}
	defer c.tunnels.release(t, true)
	if t.v1 == nil {
		_, err = to.TCPOnly()
	}
	return err
}

// Close closes all tunnels, whose connections fail with ErrTunnel, and waits until
// everything of theirs is gone. Dial fails with net.ErrClosed from then on.
func (c *Client) Close() error {
	c.init()
	c.tunnels.close()
	return nil
}

// init prepares what the fields decide; they must not change afterwards.
func (c *Client) init() {
	c.once.Do(func() {
		interval := cmp.Or(c.PingInterval, defaultPingInterval)
		if c.Ways == nil {
			c.Ways = &Ways{}
		}
		p := &c.tunnels
		if p.limit = cmp.Or(c.Silence, defaultSilence); p.limit > 0 {
			interval = min(interval, p.limit/2)
		}
		if p.asleep = c.asleep; p.asleep == nil {
			p.asleep = asleep
		}
		p.slept = p.asleep()
		p.open = func(ctx context.Context) (*clientTunnel, error) { return c.openTunnel(ctx, interval) }
		p.max = cmp.Or(max(c.MaxTunnels, 0), defaultMaxTunnels)
		p.idleTime = cmp.Or(c.IdleTime, defaultIdleTime)
		p.silence = interval + interval/2
		p.sweeps = min(p.idleTime/4, p.silence, lookTime)
		p.again = c.Again
		p.log = c.Log
		if p.log == nil {
			p.log = slog.New(slog.DiscardHandler)
		}
		p.life, p.end = context.WithCancel(context.Background())
	})
}
