package tunnel

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
)

// maxReplay is how much of what a connection has sent is kept to be sent again.
const maxReplay = 64 << 10

// Reopening says when and how a Replayed is opened again. Its functions are called one at a time, until one has
// failed, or something has come back.
type Reopening struct {
	// NothingDone reports whether an error means that the far end has done nothing for the connection.
	NothingDone func(err error) bool
	// Again reports whether the connection is opened once more after such an error. It may wait, until ctx ends.
	Again func(ctx context.Context, err error) bool
	// Dial opens it, as a Replayable.
	Dial func(ctx context.Context) (pipe.Conn, error)
}

// Replayable is a connection in a tunnel, as Conn.
type Replayable interface {
	pipe.Conn
	io.WriterTo
	Reset() error
	SetWriteDeadline(time.Time) error
	AfterLoss(f func())
	Loss() error
}

// Replayed is a connection that is opened again, and what was sent sent again, when the far end says that it has done
// nothing for it, because what it led to is gone and goes on elsewhere. That is possible until something has come back,
// or more was sent than is kept. Its methods are safe to call at the same time.
type Replayed struct {
	how  Reopening
	life context.Context // ends when the connection is not to be opened again
	end  context.CancelFunc

	final atomic.Bool // conn stays, and is not guarded by mu any more

	mu     sync.Mutex
	conn   Replayable
	sent   []byte
	fin    bool   // CloseWrite was called
	onLoss func() // of AfterLoss, or nil
	loss   error  // why it was lost and could not be opened again
}

// NewReplayed returns a connection that is conn, which it owns, until that has to be opened again. It is not once life has ended.
func NewReplayed(life context.Context, conn Replayable, how Reopening) *Replayed {
	c := &Replayed{how: how, conn: conn}
	c.life, c.end = context.WithCancel(life)
	return c
}

// Read implements pipe.Conn.
func (c *Replayed) Read(p []byte) (int, error) {
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
func (c *Replayed) WriteTo(w io.Writer) (int64, error) {
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
	conn *Replayed
}

func (w replyWriter) Write(p []byte) (int, error) {
	w.conn.finish()
	return w.Writer.Write(p)
}

// Write implements pipe.Conn.
func (c *Replayed) Write(p []byte) (int, error) {
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
func (c *Replayed) CloseWrite() error {
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
func (c *Replayed) Close() error {
	c.end()
	return c.current().Close()
}

// Reset gives the connection up as a failure.
func (c *Replayed) Reset() error {
	c.end()
	return c.current().Reset()
}

// SetWriteDeadline sets the deadline of writes. One that has passed ends a write under
// way, and with it the reopening that it may wait for.
func (c *Replayed) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		c.end()
	}
	return c.current().SetWriteDeadline(t)
}

// AfterLoss calls f on a goroutine of its own once the connection is lost for good;
// Loss then says how.
func (c *Replayed) AfterLoss(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onLoss = f
	c.watch()
}

// watch has onLoss called when conn is lost and cannot be opened again. c.mu is held.
func (c *Replayed) watch() {
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
func (c *Replayed) Loss() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loss
}

// current is the connection as it is now.
func (c *Replayed) current() Replayable {
	if c.final.Load() {
		return c.conn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// keep returns the connection that p is to be written to, and keeps p while it may
// have to be sent again.
func (c *Replayed) keep(p []byte) Replayable {
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
func (c *Replayed) finish() {
	if !c.final.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.finishLocked()
	}
}

func (c *Replayed) finishLocked() {
	c.final.Store(true)
	c.sent = nil
	c.end()
}

// reopen opens the connection again if it failed with an error that allows that. It
// returns nil if that was done, by this call or another: the error of a connection that
// was replaced meanwhile may be only that it is closed.
func (c *Replayed) reopen(failed Replayable, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.conn != failed:
		return nil
	case !c.how.NothingDone(err) || c.final.Load() || c.life.Err() != nil:
		return err
	case !c.how.Again(c.life, err):
		c.finishLocked() // whoever waits for the lock has failed with the same connection
		return err
	}
	conn, err := c.replay()
	if err != nil {
		c.finishLocked()
		return err
	}
	_ = failed.Close()
	c.conn = conn
	if c.onLoss != nil {
		c.watch()
	}
	return nil
}

// replay opens another connection and sends on it what was sent before. c.mu is held.
func (c *Replayed) replay() (Replayable, error) {
	conn, err := c.how.Dial(c.life)
	if err != nil {
		return nil, err
	}
	to := conn.(Replayable)
	stop := context.AfterFunc(c.life, func() { _ = to.Reset() })
	_, err = to.Write(c.sent)
	if err == nil && c.fin {
		err = to.CloseWrite()
	}
	if !stop() && err == nil {
		err = net.ErrClosed
	}
	if err != nil && !c.how.NothingDone(err) { // else the next read fails too, and reopens it once more
		_ = to.Reset()
		return nil, err
	}
	return to, nil
}
