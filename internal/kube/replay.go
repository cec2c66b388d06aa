package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
)

const (
	// maxKept is how much of what a connection has sent is kept to be sent again.
	maxKept = 64 << 10
	// maxReopened is how often a connection is opened again. The sandbox of a pod may
	// be made anew while it is being opened.
	maxReopened = 3
)

// replayConn is a connection to a pod that is opened again when the far end says that it
// has done nothing for it: its tunnel led to a sandbox that is gone, and the pod goes on
// in another one. That can be as long as nothing has come back, and what was sent is kept.
type replayConn struct {
	route *Route
	port  uint16
	life  context.Context // ends when nothing is to be opened any more
	end   context.CancelFunc

	final atomic.Bool // conn stays; it is not guarded any more then

	mu    sync.Mutex
	conn  tunnelConn
	sent  []byte
	fin   bool   // CloseWrite was called
	times int    // that it was opened again
	tell  func() // who wants to know of the loss, or nil
	loss  error  // why it was lost and could not be opened again
}

// tunnelConn is what a portforward.Client's connections are.
type tunnelConn interface {
	pipe.Conn
	io.WriterTo
	Reset() error
	SetWriteDeadline(time.Time) error
	AfterLoss(f func())
	Loss() error
}

// reopen makes a connection one that is opened again if need be.
func (r *Route) reopen(conn pipe.Conn, port uint16) pipe.Conn {
	to, ok := conn.(tunnelConn)
	if !ok {
		return conn
	}
	c := &replayConn{route: r, port: port, conn: to}
	c.life, c.end = context.WithCancel(r.life)
	return c
}

// Read implements pipe.Conn.
func (c *replayConn) Read(p []byte) (int, error) {
	for {
		conn := c.current()
		n, err := conn.Read(p)
		if n > 0 || err == nil || err == io.EOF { //nolint:errorlint // the end itself
			c.settle()
			return n, err
		}
		if err = c.again(conn, err); err != nil {
			return 0, err
		}
	}
}

// WriteTo implements io.WriterTo.
func (c *replayConn) WriteTo(w io.Writer) (int64, error) {
	for {
		conn := c.current()
		n, err := conn.WriteTo(arrival{w, c})
		if n == 0 && err != nil {
			if err = c.again(conn, err); err == nil {
				continue
			}
		}
		c.settle()
		return n, err
	}
}

// arrival is where what arrives goes, and with it the need to keep what was sent.
type arrival struct {
	io.Writer
	conn *replayConn
}

func (a arrival) Write(p []byte) (int, error) {
	a.conn.settle()
	return a.Writer.Write(p)
}

// Write implements pipe.Conn.
func (c *replayConn) Write(p []byte) (int, error) {
	conn := c.keep(p)
	n, err := conn.Write(p)
	if err != nil {
		if err = c.again(conn, err); err == nil {
			n = len(p) // it was sent again with all before it
		}
	}
	return n, err
}

// CloseWrite implements pipe.Conn.
func (c *replayConn) CloseWrite() error {
	c.mu.Lock()
	c.fin = true
	conn := c.conn
	c.mu.Unlock()
	err := conn.CloseWrite()
	if err != nil {
		err = c.again(conn, err)
	}
	return err
}

// Close implements pipe.Conn.
func (c *replayConn) Close() error {
	c.end()
	return c.current().Close()
}

// Reset gives the connection up as a failure.
func (c *replayConn) Reset() error {
	c.end()
	return c.current().Reset()
}

// SetWriteDeadline sets the deadline of writes; one that has passed ends a write under
// way, and with it the opening that it may wait for.
func (c *replayConn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		c.end()
	}
	return c.current().SetWriteDeadline(t)
}

// AfterLoss calls f on a goroutine of its own once the connection is lost for good;
// Loss then says how.
func (c *replayConn) AfterLoss(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell = f
	c.watch()
}

// watch waits for the loss of the connection as it is now; c.mu is held.
func (c *replayConn) watch() {
	conn := c.conn
	conn.AfterLoss(func() {
		err := c.again(conn, conn.Loss())
		if err == nil {
			return
		}
		c.mu.Lock()
		c.loss = err
		c.mu.Unlock()
		c.tell()
	})
}

// Loss says why the connection was lost, nil if it was not.
func (c *replayConn) Loss() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loss
}

// current is the connection as it is now.
func (c *replayConn) current() tunnelConn {
	if c.final.Load() {
		return c.conn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// keep returns the connection that p is to be written to, and keeps p as long as it may
// have to be written again.
func (c *replayConn) keep(p []byte) tunnelConn {
	if c.final.Load() {
		return c.conn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sent)+len(p) > maxKept {
		c.stay()
	} else if !c.final.Load() {
		c.sent = append(c.sent, p...)
	}
	return c.conn
}

// settle says that the connection stays as it is: something has come back.
func (c *replayConn) settle() {
	if !c.final.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stay()
	}
}

// stay lets nothing be opened any more; c.mu is held.
func (c *replayConn) stay() {
	c.final.Store(true)
	c.sent = nil
	c.end()
}

// again opens the connection again if it failed with an error that allows that, and
// returns nil if that was done, by whomever: the one that failed was closed then, and its
// error may say no more than that.
func (c *replayConn) again(failed tunnelConn, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.conn != failed:
		return nil
	case !errors.Is(err, portforward.ErrNoSandbox) && !errors.Is(err, portforward.ErrRefused):
		return err
	case c.final.Load() || c.life.Err() != nil || c.times == maxReopened:
		return err
	}
	c.times++
	conn, err := c.open()
	if err != nil {
		return err
	}
	_ = failed.Close()
	c.conn = conn
	if c.tell != nil {
		c.watch()
	}
	return nil
}

// open opens the connection and sends what was sent before; c.mu is held.
func (c *replayConn) open() (tunnelConn, error) {
	c.route.Log.Debug("connection is opened again", "port", c.port, "sent", len(c.sent))
	conn, err := (&call{route: c.route, port: c.port}).run(c.life)
	if err != nil {
		return nil, err
	}
	to := conn.(tunnelConn)
	stop := context.AfterFunc(c.life, func() { _ = to.Reset() })
	_, err = to.Write(c.sent)
	if err == nil && c.fin {
		err = to.CloseWrite()
	}
	if !stop() && err == nil {
		err = net.ErrClosed
	}
	if errors.Is(err, portforward.ErrNoSandbox) || errors.Is(err, portforward.ErrRefused) {
		err = nil // who reads finds out, and opens it once more
	}
	if err != nil {
		_ = to.Reset()
		return nil, err
	}
	return to, nil
}
