package pipe

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lossTeller is a Conn that tells of its loss also while nobody reads it, as a stream
// in a tunnel does. AfterLoss calls f on a goroutine of its own once the Conn has
// failed, at once if it has already; Loss then says why. After that, Read still returns
// what came before, and then io.EOF only if the peer's end of file was among it.
type lossTeller interface {
	AfterLoss(f func())
	Loss() error
}

// end is one of the two Conns of a link, and what is known of it.
type end struct {
	Conn
	teller lossTeller // Conn, or nil

	once   sync.Once
	lost   chan struct{} // closed by lose
	reason error         // set before lost is closed

	drained chan struct{} // closed when no more of what the Conn said will be delivered
	moved   atomic.Int64  // grows while what it said is delivered
	shut    atomic.Bool   // CloseWrite was called, or is about to be
	stuck   atomic.Bool   // it has not taken anything for so long that it was given up
}

func newEnd(c Conn) *end {
	e := &end{Conn: c, lost: make(chan struct{}), drained: make(chan struct{})}
	e.teller, _ = c.(lossTeller)
	return e
}

// lose notes that the Conn is gone, although there may be more to read from it.
func (e *end) lose(reason error) {
	e.once.Do(func() {
		e.reason = reason
		close(e.lost)
	})
}

func (e *end) isLost() bool {
	select {
	case <-e.lost:
		return true
	default:
		return false
	}
}

// falseEnd says why an end of file that was read is none. A write that fails can take
// away the error that reading would have ended with (sock_error in Linux), so that
// reading shows an end of file instead. EPIPE says that there had been a true one.
func (e *end) falseEnd() error {
	if e.teller != nil || !e.isLost() || errors.Is(e.reason, syscall.EPIPE) {
		return nil
	}
	return e.reason
}

// writeError is a failure of the Conn that was written to.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// link is one pair of Conns while it lives.
type link struct {
	copier     *Copier
	a, b       *end
	directions atomic.Int32 // that have not seen their end of file
	once       sync.Once
	over       chan struct{} // closed when both Conns are
	err        error         // what ended it, set before over is closed
}

func newLink(c *Copier, a, b Conn) *link {
	l := &link{copier: c, a: newEnd(a), b: newEnd(b), over: make(chan struct{})}
	l.directions.Store(2)
	for _, e := range []*end{l.a, l.b} {
		if e.teller != nil {
			e.teller.AfterLoss(func() { l.told(e) })
		}
	}
	return l
}

// told is called when a Conn tells of its loss. One that was closed on this side is
// not waited for.
func (l *link) told(e *end) {
	e.lose(e.teller.Loss())
	if errors.Is(e.reason, net.ErrClosed) {
		l.fail(e, e.reason)
	}
}

// run moves one direction to its end and returns the bytes that it delivered.
// Whichever run ends the link closes both Conns, which wakes the other.
func (l *link) run(dst, src *end) int64 {
	n, err := l.copier.move(dst, src)
	if err == nil {
		err = src.falseEnd()
	}
	if err == nil {
		dst.shut.Store(true)
		if failed := dst.CloseWrite(); failed != nil {
			err = writeError{failed}
		}
	}
	close(src.drained)
	var failed writeError
	switch {
	case errors.As(err, &failed):
		dst.lose(failed.error)
		l.awaitRest(dst, src)
		l.fail(dst, failed.error)
	case err != nil:
		l.fail(src, err)
	case l.directions.Add(-1) == 0:
		l.finish()
	default:
		// src has no more bytes, but can still be reset, and nobody would
		// notice: the other direction may wait for its own source for hours.
		if err := l.awaitFailure(src); err != nil {
			l.fail(src, err)
		}
	}
	return n
}

// awaitRest waits until what a Conn had said before it was lost is delivered to the
// other one, for as long as that takes any of it.
func (l *link) awaitRest(of, to *end) {
	if errors.Is(of.reason, net.ErrClosed) { // here, and on purpose
		return
	}
	tick := time.NewTicker(patience * stallCheck)
	defer tick.Stop()
	for seen := int64(-1); ; {
		select {
		case <-of.drained:
			return
		case <-l.over:
			return
		case <-tick.C:
			moved := of.moved.Load()
			if moved == seen {
				to.stuck.Store(true)
				return
			}
			seen = moved
		}
	}
}

// awaitFailure waits, after src's end of file, until src fails or is closed.
func (l *link) awaitFailure(src *end) error {
	if src.teller == nil {
		return awaitFailure(src.Conn)
	}
	select {
	case <-src.lost:
		return src.reason
	case <-l.over:
		return nil
	}
}

// fail resets both Conns, because one has failed: the other after it has taken what
// was written to it.
func (l *link) fail(of *end, err error) {
	l.once.Do(func() {
		l.err = err
		other := l.a
		if of == l.a {
			other = l.b
		}
		_ = Reset(of.Conn)
		if !errors.Is(err, net.ErrClosed) && !other.stuck.Load() {
			flush(other.Conn)
		}
		_ = Reset(other.Conn)
		close(l.over)
	})
}

func (l *link) finish() {
	l.once.Do(func() {
		l.err = errors.Join(l.a.Close(), l.b.Close())
		close(l.over)
	})
}
