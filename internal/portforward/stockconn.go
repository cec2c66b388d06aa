package portforward

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// stockConn is a connection to a port of the pod in the protocol of stock servers. It is a
// net.Conn with half-close; its methods are safe to call at the same time.
//
// Read returns io.EOF only when the server has ended the connection without an error. All
// else is an error: *tunnel.PortError with the server's text, ErrReset without, ErrTunnel,
// net.ErrClosed.
type stockConn struct {
	tunnel      *clientTunnel
	port        uint16
	opened      time.Time
	data        *spdy.Stream
	errorStream *spdy.Stream

	over   chan struct{} // closed when the server is through with the connection
	result error         // how it ended; set before over is closed

	closing sync.Once
	closed  chan struct{} // closed by Close and Reset

	ended atomic.Bool // Read has returned io.EOF

	writes  atomic.Int32 // Writes under way
	wroteAt atomic.Int64 // when the last one ended, in ns after the tunnel's start

	mu sync.Mutex // orders SetWriteDeadline and stopSending
}

// Read reads what the port sent. After the server's end of the stream it waits
// for the end of the error stream, so that no error comes too late.
func (c *stockConn) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	switch {
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	case err == io.EOF: //nolint:errorlint // itself: a tunnel that ended in one is something else
		return n, c.awaitResult()
	}
	return n, c.explain(err)
}

// WriteTo writes all that the port sends to w, until its end. It implements
// io.WriterTo.
func (c *stockConn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.data.WriteTo(w)
	if err == nil {
		if err = c.awaitResult(); err == io.EOF { //nolint:errorlint // as in Read
			err = nil
		}
	} else {
		err = c.explain(err)
	}
	return n, err
}

// Write sends p. It returns once p is on its way or in the tunnel's bounded queue.
// After an error n bytes may have been sent. When the server is through with the
// connection the error is syscall.EPIPE.
func (c *stockConn) Write(p []byte) (int, error) {
	if isDone(c.over) {
		return 0, c.unsendable()
	}
	c.writes.Add(1)
	n, err := c.data.Write(p)
	c.wroteAt.Store(int64(time.Since(c.tunnel.started)))
	c.writes.Add(-1)
	switch {
	case err == nil:
		return n, nil
	case isDone(c.over):
		return n, c.unsendable()
	}
	return n, c.explain(err)
}

// CloseWrite tells the port that no more bytes follow. Reading stays possible.
func (c *stockConn) CloseWrite() error {
	err := c.data.CloseWrite()
	switch {
	case err == nil && !isDone(c.over):
		return nil
	case isDone(c.closed):
		return net.ErrClosed
	case isDone(c.over):
		return c.result // a clean end needs no more of ours
	}
	return c.explain(err)
}

// Close gives the connection up: the port gets the end of file, and if it has sent
// or sends what is not going to be read, a reset. It does not wait.
func (c *stockConn) Close() error {
	return c.giveUp((*spdy.Stream).Close)
}

// Reset gives the connection up as a failure. How much of that the port sees is up
// to the server; stock ones know only the end of file.
func (c *stockConn) Reset() error {
	return c.giveUp((*spdy.Stream).Reset)
}

// AfterLoss calls f on a goroutine of its own once the port or the tunnel has failed;
// Loss then says how. What came before is still read.
func (c *stockConn) AfterLoss(f func()) { c.data.AfterLoss(f) }

// Loss returns why the connection was lost, nil if it was not.
func (c *stockConn) Loss() error { return c.explain(c.data.Loss()) }

func (c *stockConn) giveUp(how func(*spdy.Stream) error) (err error) {
	c.closing.Do(func() {
		close(c.closed)
		err = how(c.data)
		_ = c.errorStream.SetReadDeadline(time.Now().Add(drainTime))
	})
	return err
}

// LocalAddr returns a placeholder: the protocol does not transmit addresses.
func (c *stockConn) LocalAddr() net.Addr { return tunnel.Addr{} }

// RemoteAddr returns the port.
func (c *stockConn) RemoteAddr() net.Addr { return tunnel.Addr{Address: target.TCPPort(c.port)} }

// SetDeadline sets both deadlines; see net.Conn.
func (c *stockConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of reads under way and to come.
func (c *stockConn) SetReadDeadline(t time.Time) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	return c.data.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of writes under way and to come.
func (c *stockConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case isDone(c.closed):
		return net.ErrClosed
	case isDone(c.over):
		return nil
	}
	return c.data.SetWriteDeadline(t)
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// unsendable is what a Write gets once the server is through with the connection.
func (c *stockConn) unsendable() error {
	switch {
	case isDone(c.closed):
		return net.ErrClosed
	case c.result != nil:
		return c.result
	}
	return &net.OpError{Op: "write", Net: "portforward", Addr: c.RemoteAddr(), Err: syscall.EPIPE}
}
