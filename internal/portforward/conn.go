package portforward

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

// Conn is a connection to a port of the pod. It is a net.Conn with half-close;
// its methods are safe to call at the same time.
//
// Read returns io.EOF only when the server has ended the connection and had
// nothing to say against it. All else is an error: *PortError with the server's
// words, ErrReset without, ErrTunnel, net.ErrClosed.
type Conn struct {
	tunnel *tunnel
	port   uint16
	opened time.Time
	data   *spdy.Stream
	text   *spdy.Stream // the error stream

	over    chan struct{} // closed when the server is through with the connection
	verdict error         // how it ended; set before over is closed

	closing sync.Once
	closed  chan struct{} // closed by Close and Reset

	ended  atomic.Bool // Read has returned io.EOF
	readBy deadline

	writes  atomic.Int32 // Writes under way
	wroteAt atomic.Int64 // when the last one ended, in ns after tunnel.born

	mu sync.Mutex // orders SetWriteDeadline and stopSending
}

// Read reads what the port sent. After the server's end of the stream it waits
// for the end of the error stream, so that no error comes too late.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	switch {
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	case err == io.EOF: //nolint:errorlint // itself: a tunnel that ended in one is something else
		return n, c.end()
	}
	return n, c.explain(err)
}

// WriteTo writes all that the port sends to w, until its end. It implements
// io.WriterTo.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	n, err := c.data.WriteTo(w)
	if err == nil {
		if err = c.end(); err == io.EOF { //nolint:errorlint // as in Read
			err = nil
		}
	} else {
		err = c.explain(err)
	}
	return n, err
}

// Write sends p. It returns once p is on its way or in the tunnel's bounded queue.
// After an error n octets may have been sent. When the server is through with the
// connection the error is syscall.EPIPE.
func (c *Conn) Write(p []byte) (int, error) {
	if c.isOver() {
		return 0, c.unsendable()
	}
	c.writes.Add(1)
	n, err := c.data.Write(p)
	c.wroteAt.Store(int64(time.Since(c.tunnel.born)))
	c.writes.Add(-1)
	switch {
	case err == nil:
		return n, nil
	case c.isOver():
		return n, c.unsendable()
	}
	return n, c.explain(err)
}

// CloseWrite tells the port that no more bytes follow. Reading goes on.
func (c *Conn) CloseWrite() error {
	err := c.data.CloseWrite()
	switch {
	case err == nil:
		return nil
	case c.isClosed():
		return net.ErrClosed
	case c.isOver():
		return c.verdict // a clean end needs no more of ours
	}
	return c.explain(err)
}

// Close gives the connection up: the port gets the end of file, and if it has sent
// or sends what is not going to be read, a reset. It does not wait.
func (c *Conn) Close() error {
	return c.giveUp((*spdy.Stream).Close)
}

// Reset gives the connection up as a failure. How much of that the port sees is up
// to the server; stock ones know only the end of file.
func (c *Conn) Reset() error {
	return c.giveUp((*spdy.Stream).Reset)
}

// AfterLoss calls f on a goroutine of its own once the port or the tunnel has failed;
// Loss then says how. What came before is still read.
func (c *Conn) AfterLoss(f func()) { c.data.AfterLoss(f) }

// Loss says why the connection was lost, nil if it was not.
func (c *Conn) Loss() error { return c.explain(c.data.Loss()) }

func (c *Conn) giveUp(how func(*spdy.Stream) error) (err error) {
	c.closing.Do(func() {
		close(c.closed)
		err = how(c.data)
		c.readBy.set(time.Time{})
		_ = c.text.SetReadDeadline(time.Now().Add(drainTime))
	})
	return err
}

// LocalAddr returns a placeholder: the protocol tells nobody's address.
func (c *Conn) LocalAddr() net.Addr { return addr(0) }

// RemoteAddr returns the port.
func (c *Conn) RemoteAddr() net.Addr { return addr(c.port) }

// addr is a port in a pod, 0 for none.
type addr uint16

func (addr) Network() string  { return "portforward" }
func (a addr) String() string { return ":" + strconv.Itoa(int(a)) }

// SetDeadline sets both deadlines; see net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of reads under way and to come.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.isClosed() {
		return net.ErrClosed
	}
	c.readBy.set(t)
	return c.data.SetReadDeadline(t)
}

// SetWriteDeadline sets the deadline of writes under way and to come.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isClosed():
		return net.ErrClosed
	case c.isOver():
		return nil
	}
	return c.data.SetWriteDeadline(t)
}

func (c *Conn) isOver() bool   { return isDone(c.over) }
func (c *Conn) isClosed() bool { return isDone(c.closed) }

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// unsendable is what a Write gets once the server is through with the connection.
func (c *Conn) unsendable() error {
	switch {
	case c.isClosed():
		return net.ErrClosed
	case c.verdict != nil:
		return c.verdict
	}
	return &net.OpError{Op: "write", Net: "portforward", Addr: c.RemoteAddr(), Err: syscall.EPIPE}
}
