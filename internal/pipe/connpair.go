package pipe

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lossNotifier is a Conn that reports its loss even while nobody reads it, as a stream
// in a tunnel does. AfterLoss calls f on a goroutine of its own once the Conn has
// failed, at once if it has already; Loss then says why. After that, Read still returns
// what came before, and then io.EOF only if the peer's end of file was among it.
type lossNotifier interface {
	AfterLoss(f func())
	Loss() error
}

// socket is what splice(2) and the checks of a socket's state need. *net.TCPConn and
// *net.UnixConn have it.
type socket interface {
	syscall.Conn
	SetWriteDeadline(time.Time) error
}

// side is one of the two Conns of a connPair, and what is known of it.
type side struct {
	Conn
	notifier lossNotifier    // Conn, or nil
	socket   socket          // Conn, or nil
	raw      syscall.RawConn // of socket, or nil

	once   sync.Once
	lost   chan struct{} // closed by markLost
	reason error         // set before lost is closed

	copied      chan struct{} // closed when no more of what it sent will be delivered
	progress    atomic.Int64  // grows while what it sent is delivered
	writeClosed atomic.Bool   // CloseWrite was called, or is about to be
	givenUp     atomic.Bool   // it has taken nothing for so long that nothing more is offered
}

func newSide(c Conn) *side {
	s := &side{Conn: c, lost: make(chan struct{}), copied: make(chan struct{})}
	s.notifier, _ = c.(lossNotifier)
	if k, ok := c.(socket); ok {
		if raw, err := k.SyscallConn(); err == nil {
			s.socket, s.raw = k, raw
		}
	}
	s.setLinger(0)
	return s
}

// setLinger says what a close does, also the kernel's when this process is killed: 0 resets the connection, and
// a negative number ends what is sent, which is for the end of both directions alone (socket(7), SO_LINGER). An
// error means that the connection is gone already.
func (s *side) setLinger(seconds int) {
	if c, ok := s.Conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = c.SetLinger(seconds)
	}
}

// markLost notes that the Conn is gone, although there may be more to read from it.
func (s *side) markLost(reason error) {
	s.once.Do(func() {
		s.reason = reason
		close(s.lost)
	})
}

// hiddenLoss is the failure that an end of file which was read stands for, or nil. A
// write that fails can take away the error that reading would have ended with
// (sock_error in Linux), so that reading shows an end of file instead. After EPIPE the
// end of file was a true one.
func (s *side) hiddenLoss() error {
	if s.notifier != nil {
		return nil
	}
	select {
	case <-s.lost:
		if !errors.Is(s.reason, syscall.EPIPE) {
			return s.reason
		}
	default:
	}
	return nil
}

// writeError is a failure of the Conn that was written to.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// connPair is two Conns that are being joined.
type connPair struct {
	copier *Copier
	a, b   *side
	open   atomic.Int32 // directions that have not seen their end of file
	once   sync.Once
	closed chan struct{} // closed when both Conns are
	err    error         // what ended it, set before closed is
}

// copyOneWay moves one direction to its end and returns the bytes that it delivered.
// Whichever of the two calls ends the pair closes both Conns, which wakes the other.
func (p *connPair) copyOneWay(dst, src *side) int64 {
	n, err := p.copier.copyUntilEOF(dst, src)
	if err == nil {
		err = src.hiddenLoss()
	}
	if err == nil {
		dst.writeClosed.Store(true)
		if failed := dst.CloseWrite(); failed != nil {
			err = writeError{failed}
		}
	}
	close(src.copied)
	var failed writeError
	switch {
	case errors.As(err, &failed):
		dst.markLost(failed.error)
		p.awaitDelivery(dst, src)
		p.fail(dst, failed.error)
	case err != nil:
		p.fail(src, err)
	case p.open.Add(-1) == 0:
		p.once.Do(func() {
			p.a.setLinger(-1)
			p.b.setLinger(-1)
			p.err = errors.Join(p.a.Close(), p.b.Close())
			close(p.closed)
		})
	default:
		if err := p.awaitLoss(src); err != nil {
			p.fail(src, err)
		}
	}
	return n
}

// awaitDelivery waits until what a Conn had sent before it was lost is delivered to the
// other one, for as long as that one takes any of it.
func (p *connPair) awaitDelivery(lost, other *side) {
	if errors.Is(lost.reason, net.ErrClosed) { // by this side, on purpose
		return
	}
	tick := time.NewTicker(giveUpTime)
	defer tick.Stop()
	for seen := int64(-1); ; {
		select {
		case <-lost.copied:
			return
		case <-p.closed:
			return
		case <-tick.C:
			progress := lost.progress.Load()
			if progress == seen {
				other.givenUp.Store(true)
				return
			}
			seen = progress
		}
	}
}

// awaitLoss waits, after the end of file of src, until src fails or is closed. It has no
// more bytes, but can still be reset, and nobody would notice: the other direction may
// wait for its own source for hours.
func (p *connPair) awaitLoss(src *side) error {
	if src.notifier == nil {
		return src.awaitSocketError()
	}
	select {
	case <-src.lost:
		return src.reason
	case <-p.closed:
		return nil
	}
}

// fail resets both Conns because one has failed: the other after it has received what
// was written to it.
func (p *connPair) fail(failed *side, err error) {
	p.once.Do(func() {
		p.err = err
		other := p.a
		if failed == p.a {
			other = p.b
		}
		_ = Reset(failed.Conn)
		if !errors.Is(err, net.ErrClosed) && !other.givenUp.Load() {
			other.awaitAcks()
		}
		_ = Reset(other.Conn)
		close(p.closed)
	})
}
