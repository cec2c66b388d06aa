package tunnel

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// Conn is a connection to a port at the far end: one stream of the tunnel. It is a net.Conn
// with half-close; its methods are safe to call at the same time. One of a Listener was made by a client
// there.
//
// Read returns io.EOF only when the port has ended the connection. All else is an error:
// *PortError with the server's reason, ErrTunnel, net.ErrClosed.
type Conn struct {
	client  *Client
	to      target.Address
	from    netip.AddrPort // of a Listener's: who has connected there
	opened  time.Time
	stream  *spdy.Stream
	closing sync.Once
	closed  func() // called once; nil for none
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// WriteTo implements io.WriterTo: it writes all that arrives to w, without a copy between.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.stream.WriteTo(w)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// Write implements net.Conn. After an error n bytes may have been sent.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.stream.Write(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// CloseWrite tells the port that no more bytes follow. Reading stays possible.
func (c *Conn) CloseWrite() error { return c.explain(c.stream.CloseWrite()) }

// Close gives the connection up: the port gets the end of file, or a reset if it has sent
// or still sends bytes that nobody will read. It does not wait.
func (c *Conn) Close() error { return c.end((*spdy.Stream).Close) }

// Reset gives the connection up as a failure, which the port sees as a reset.
func (c *Conn) Reset() error { return c.end((*spdy.Stream).Reset) }

func (c *Conn) end(how func(*spdy.Stream) error) error {
	err := how(c.stream)
	c.closing.Do(func() {
		if c.closed != nil {
			c.closed()
		}
	})
	return err
}

// Tunnel returns the tunnel that the connection is in.
func (c *Conn) Tunnel() *Client { return c.client }

// AfterLoss calls f on a goroutine of its own once the port or the tunnel has failed;
// Loss then returns how. What was received before can still be read.
func (c *Conn) AfterLoss(f func()) { c.stream.AfterLoss(f) }

// Loss returns why the connection was lost, nil if it was not.
func (c *Conn) Loss() error { return c.explain(c.stream.Loss()) }

// explain replaces a reset by the reason that the server gave for it. There is none for a
// stream that the server never accepted, nor needed for one of a Listener.
func (c *Conn) explain(err error) error {
	if !errors.Is(err, spdy.ErrReset) || errors.Is(err, spdy.ErrRefused) || c.from.IsValid() {
		return err
	}
	e := &PortError{To: c.to, Reason: ReasonReset, Text: resetText}
	headers := c.stream.LateHeaders()
	if reason := headers.Get("reason"); reason != "" {
		e.Reason, e.Text = knownReason(reason), ClipText(headers.Get("message"))
	}
	if e.Reason == ReasonNoSandbox && c.client.cfg.SandboxGone != nil {
		c.client.cfg.SandboxGone(c.opened)
	}
	return e
}

// LocalAddr returns a placeholder: the protocol does not transmit addresses.
func (c *Conn) LocalAddr() net.Addr { return Addr{} }

// RemoteAddr returns what the connection leads to, or who has made it there: a *net.TCPAddr or *net.UDPAddr.
func (c *Conn) RemoteAddr() net.Addr {
	switch {
	case !c.from.IsValid():
		return Addr{c.to}
	case c.to.Network == target.UDP:
		return net.UDPAddrFromAddrPort(c.from)
	}
	return net.TCPAddrFromAddrPort(c.from)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }
