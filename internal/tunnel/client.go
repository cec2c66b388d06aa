package tunnel

import (
	"io"
	"strconv"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

// ClientConfig says how the end of a tunnel behaves that opens connections. The zero value
// works.
type ClientConfig struct {
	// SPDY is the configuration of the layer below, of which PingInterval, PingTimeout and
	// PeerClosed are of use here. Flow control is always on.
	SPDY spdy.Config
	// ConnClosed, if set, is called once for each connection, when it was closed or reset
	// on this side.
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
	cfg ClientConfig
}

// NewClient starts a tunnel over transport, which it owns from here on; see spdy.New.
func NewClient(transport io.ReadWriteCloser, cfg ClientConfig) *Client {
	cfg.SPDY.FlowControl = true
	return &Client{Conn: spdy.New(transport, cfg.SPDY), cfg: cfg}
}

// Dial opens a connection to a TCP port without waiting for the server: bytes can be written
// at once, and if the port cannot be reached, reading and writing fail with *PortError.
func (c *Client) Dial(port uint16) (*Conn, error) {
	stream, err := c.OpenStream(spdy.Header{"network": {"tcp"}, "port": {strconv.Itoa(int(port))}}, false)
	if err != nil {
		return nil, err
	}
	return &Conn{client: c, port: port, opened: time.Now(), stream: stream}, nil
}
