package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// maxReplay is how much of what a connection has sent is kept to be sent again.
	maxReplay = 64 << 10
	// maxReopens is how often a connection is opened again. The sandbox of a pod may
	// be replaced while the connection is being opened.
	maxReopens = 3
	// maxRefusals is how often besides after the far end has refused it, which it does while it
	// has too many: from the second time on after a pause, of 5 seconds in all.
	maxRefusals     = 16
	minRefusalPause = 20 * time.Millisecond
	maxRefusalPause = 500 * time.Millisecond
)

// replayConn is a connection to a pod that is opened again, and what was sent sent
// again, when the far end says that it has done nothing for it: its tunnel led to a
// sandbox that is gone, and the pod continues in another one. That is possible until
// something has come back, or more was sent than is kept.
type replayConn struct {
	route *Route
	to    target.Address
	life  context.Context // ends when the connection is not to be opened again
	end   context.CancelFunc

	final atomic.Bool // conn stays, and is not guarded by mu any more

	mu      sync.Mutex
	conn    tunnelConn
	sent    []byte
	fin     bool // CloseWrite was called
	reopens int
	refused int             // times
	pause   backoff.Backoff // after refusals
	onLoss  func()          // of AfterLoss, or nil
	loss    error           // why it was lost and could not be opened again
}

// tunnelConn is a connection of a portforward.Client.
type tunnelConn interface {
	pipe.Conn
	io.WriterTo
	Reset() error
	SetWriteDeadline(time.Time) error
	AfterLoss(f func())
	Loss() error
}

// Read implements pipe.Conn.
func (c *replayConn) Read(p []byte) (int, error) {
	for {
		conn := c.current()
		n, err := conn.Read(p)
		if n > 0 || err == nil || err == io.EOF { //nolint:errorlint // the end itself
			c.finish()
			return n, err
		}
		if err = c.reopen(conn, err); err != nil {
			return 0, err
		}
	}
}

// WriteTo implements io.WriterTo.
func (c *replayConn) WriteTo(w io.Writer) (int64, error) {
	for {
		conn := c.current()
		n, err := conn.WriteTo(replyWriter{w, c})
		if n == 0 && err != nil {
			if err = c.reopen(conn, err); err == nil {
				continue
			}
		}
		c.finish()
		return n, err
	}
}

// replyWriter notes that something has come back.
type replyWriter struct {
	io.Writer
	conn *replayConn
}

func (w replyWriter) Write(p []byte) (int, error) {
	w.conn.finish()
	return w.Writer.Write(p)
}

// Write implements pipe.Conn.
func (c *replayConn) Write(p []byte) (int, error) {
	conn := c.keep(p)
	n, err := conn.Write(p)
	if err != nil {
		if err = c.reopen(conn, err); err == nil {
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
		err = c.reopen(conn, err)
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

// SetWriteDeadline sets the deadline of writes. One that has passed ends a write under
// way, and with it the reopening that it may wait for.
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
	c.onLoss = f
	c.watch()
}

// watch has onLoss called when conn is lost and cannot be opened again. c.mu is held.
func (c *replayConn) watch() {
	conn := c.conn
	conn.AfterLoss(func() {
		err := c.reopen(conn, conn.Loss())
		if err == nil {
			return
		}
		c.mu.Lock()
		c.loss = err
		c.mu.Unlock()
		c.onLoss()
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

// keep returns the connection that p is to be written to, and keeps p while it may
// have to be sent again.
func (c *replayConn) keep(p []byte) tunnelConn {
	if c.final.Load() {
		return c.conn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sent)+len(p) > maxReplay {
		c.finishLocked()
	} else if !c.final.Load() {
		c.sent = append(c.sent, p...)
	}
	return c.conn
}

// finish has the connection not opened again: something has come back.
func (c *replayConn) finish() {
	if !c.final.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.finishLocked()
	}
}

func (c *replayConn) finishLocked() {
	c.final.Store(true)
	c.sent = nil
	c.end()
}

// reopen opens the connection again if it failed with an error that allows that. It
// returns nil if that was done, by this call or another: the error of a connection that
// was replaced meanwhile may be only that it is closed.
func (c *replayConn) reopen(failed tunnelConn, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.conn != failed:
		return nil
	case !nothingDone(err) || c.final.Load() || c.life.Err() != nil || !c.mayReopen(err):
		return err
	}
	conn, err := c.replay()
	if err != nil {
		return err
	}
	_ = failed.Close()
	c.conn = conn
	if c.onLoss != nil {
		c.watch()
	}
	return nil
}

// mayReopen counts an error, and reports whether the connection is opened once more. c.mu is held.
func (c *replayConn) mayReopen(err error) bool {
	if !errors.Is(err, tunnel.ErrRefused) {
		c.reopens++
		return c.reopens <= maxReopens
	}
	if c.refused++; c.refused > 1 {
		backoff.Sleep(c.life, c.pause.Next(minRefusalPause, maxRefusalPause), nil)
	}
	return c.refused <= maxRefusals && c.life.Err() == nil
}

// nothingDone says whether an error means that the far end has done nothing for the
// connection.
func nothingDone(err error) bool {
	return errors.Is(err, tunnel.ErrNoSandbox) || errors.Is(err, tunnel.ErrRefused)
}

// replay opens another connection and sends on it what was sent before. c.mu is held.
func (c *replayConn) replay() (tunnelConn, error) {
	c.route.Log.Debug("connection is opened again", "port", c.to, "sent", len(c.sent))
	conn, err := c.route.dial(c.life, c.to)
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
	if err != nil && !nothingDone(err) { // else the next read fails too, and reopens it once more
		_ = to.Reset()
		return nil, err
	}
	return to, nil
}
