package tunnel

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// ClientConfig says how the end of a tunnel behaves that opens connections. The zero value
// works.
type ClientConfig struct {
	// SPDY is the configuration of the layer below, of which PingInterval, PingTimeout and
	// PeerClosed are of use here. Flow control is always on.
	SPDY spdy.Config
	// ConnClosed, if set, is called once for each connection that was dialed, and for each Listener, when
	// it was closed or reset on this side.
	ConnClosed func()
	// SandboxGone, if set, is called when the server reports that what the tunnel leads
	// to is gone, for a connection that was opened at the given time. It is called before
	// anybody gets the error.
	SandboxGone func(opened time.Time)
}

// Client is the end of a tunnel that opens connections. The embedded Conn gives the tunnel's
// state and ends it.
type Client struct {
	*spdy.Conn
	cfg      ClientConfig
	incoming atomic.Int64 // connections of Listeners

	mu        sync.Mutex
	listeners map[uint32]*Listener // that are open, by the ids of their streams
}

// NewClient starts a tunnel over transport, which it owns from here on; see spdy.New.
func NewClient(transport io.ReadWriteCloser, cfg ClientConfig) *Client {
	cfg.SPDY.FlowControl = true
	c := &Client{Conn: spdy.New(transport, cfg.SPDY), cfg: cfg, listeners: map[uint32]*Listener{}}
	go c.acceptAll()
	return c
}

// Dial opens a connection without waiting for the server: bytes can be written at once, and if
// the address cannot be reached, reading and writing fail with *PortError. Of UDP, each Write is
// a datagram and each Read returns one. The Conn is a *Conn, or of UDP a *DatagramConn.
func (c *Client) Dial(to target.Address) (pipe.Conn, error) { return c.dial(to, addressHeader(to)) }

func (c *Client) dial(to target.Address, header spdy.Header) (pipe.Conn, error) {
	stream, err := c.OpenStream(header, false)
	if err != nil {
		return nil, err
	}
	conn := &Conn{client: c, to: to, opened: time.Now(), stream: stream, closed: c.cfg.ConnClosed}
	if to.Network == target.UDP {
		return &DatagramConn{conn}, nil
	}
	return conn, nil
}
