package portforward

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

// v1Conn is a connection in porthole.v1, to a port of the pod: one stream, whose end
// of file is the port's, and whose reset comes with a reason.
type v1Conn struct {
	tunnel  *tunnel
	port    uint16
	opened  time.Time
	stream  *spdy.Stream
	release sync.Once
}

// dialV1 opens a connection's stream, and waits for nothing.
func (t *tunnel) dialV1(port uint16) (*v1Conn, error) {
	stream, err := t.conn.OpenStream(http.Header{
		"network": {"tcp"},
		"port":    {strconv.Itoa(int(port))},
	}, false)
	if err != nil {
		return nil, err
	}
	return &v1Conn{tunnel: t, port: port, opened: time.Now(), stream: stream}, nil
}

// Read implements net.Conn. It returns io.EOF only for the port's own end of file.
func (c *v1Conn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	return n, c.explain(err)
}

// WriteTo implements io.WriterTo.
func (c *v1Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.stream.WriteTo(w)
	return n, c.explain(err)
}

// Write implements net.Conn. After an error n octets may have been sent.
func (c *v1Conn) Write(p []byte) (int, error) {
	n, err := c.stream.Write(p)
	return n, c.explain(err)
}

// CloseWrite tells the port that no more bytes follow. Reading goes on.
func (c *v1Conn) CloseWrite() error { return c.explain(c.stream.CloseWrite()) }

// Close gives the connection up: the port gets the end of file, and if it has sent
// or sends what is not going to be read, a reset. It does not wait.
func (c *v1Conn) Close() error { return c.giveUp((*spdy.Stream).Close) }

// Reset gives the connection up as a failure, which the port sees as a reset.
func (c *v1Conn) Reset() error { return c.giveUp((*spdy.Stream).Reset) }

func (c *v1Conn) giveUp(how func(*spdy.Stream) error) error {
	err := how(c.stream)
	c.release.Do(func() { c.tunnel.pool.release(c.tunnel, true) })
	return err
}

// AfterLoss calls f on a goroutine of its own once the port or the tunnel has failed;
// Loss then says how. What came before is still read.
func (c *v1Conn) AfterLoss(f func()) { c.stream.AfterLoss(f) }

// Loss says why the connection was lost, nil if it was not.
func (c *v1Conn) Loss() error { return c.explain(c.stream.Loss()) }

// explain replaces a reset by what the server said of it. A stream that it never
// took on has no reason.
func (c *v1Conn) explain(err error) error {
	if !errors.Is(err, spdy.ErrReset) || errors.Is(err, spdy.ErrRefused) {
		return err
	}
	e := &PortError{Port: c.port, Reason: ReasonReset, Text: "connection reset by the port"}
	said := c.stream.LateHeaders()
	if reason := said.Get("reason"); reason != "" {
		e.Reason, e.Text = knownReason(reason), clip(said.Get("message"))
	}
	if e.Reason == ReasonNoSandbox {
		c.tunnel.pool.outlive(c.opened)
	}
	return e
}

// LocalAddr returns a placeholder: the protocol tells nobody's address.
func (c *v1Conn) LocalAddr() net.Addr { return addr(0) }

// RemoteAddr returns the port.
func (c *v1Conn) RemoteAddr() net.Addr { return addr(c.port) }

// SetDeadline implements net.Conn.
func (c *v1Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *v1Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *v1Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }
