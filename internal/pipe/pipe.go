// Package pipe joins two byte streams whose directions end separately, and is the only place in the tree that moves bytes.
// It must not know what the streams carry, how they were reached, or who reads about them.
package pipe

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Conn is a byte stream whose two directions end separately.
// *net.TCPConn and *net.UnixConn are Conns.
//
// CloseWrite tells the peer that no more bytes follow, and leaves reading open.
// Close ends both directions and may be called at any time, from any goroutine, more than once.
type Conn interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Close() error
}

// Reset ends c so that its peer sees a failure, not an end of file: a TCP
// connection sends RST (SO_LINGER with a timeout of zero, socket(7)), a Conn
// with a Reset method decides for itself, anything else is only closed.
func Reset(c Conn) error {
	switch c := c.(type) {
	case interface{ Reset() error }:
		return c.Reset()
	case interface{ SetLinger(seconds int) error }:
		// An error means that the connection is gone already; Close says so too.
		_ = c.SetLinger(0)
	}
	return c.Close()
}

// Counts are the bytes that a Copy delivered, by the side that sent them.
type Counts struct {
	FromA, FromB int64
}

// A Copier joins pairs of Conns. The zero value is ready to use; its Copy may
// be called from any number of goroutines, which share its kernel pipes.
type Copier struct {
	// MaxPipes is how many kernel pipes may exist at once; 0 means 64, a
	// negative number none. A direction holds one only while bytes are on
	// their way; with none to be had, bytes pass through a buffer instead.
	MaxPipes int

	pipes pipePool
}

// Copy moves bytes both ways between a and b until both directions have ended, and closes both.
//
// The end of file on one side becomes CloseWrite on the other, and nothing
// else: no timer runs, and the other direction stays open for as long as it has
// to. When one side fails, what it had sent before is delivered first, as long as
// the other side takes it. Then both are reset, so that nobody mistakes half an answer
// for a whole one; the error is the first failure, and nil after two ends of
// file. Copy owns both Conns from the call on. To end it early, Reset or Close
// either of them.
func (c *Copier) Copy(a, b Conn) (Counts, error) {
	p := &connPair{copier: c, a: newSide(a), b: newSide(b), closed: make(chan struct{})}
	p.open.Store(2)
	for _, s := range []*side{p.a, p.b} {
		if s.notifier == nil {
			continue
		}
		s.notifier.AfterLoss(func() {
			s.markLost(s.notifier.Loss())
			if errors.Is(s.reason, net.ErrClosed) { // by this side, which wants nothing delivered
				p.fail(s, s.reason)
			}
		})
	}
	var counts Counts
	var back sync.WaitGroup
	back.Go(func() { counts.FromB = p.copyOneWay(p.a, p.b) })
	counts.FromA = p.copyOneWay(p.b, p.a)
	back.Wait()
	return counts, p.err
}

// Close frees the kernel pipes that lie idle. A Copier may be used again after it.
func (c *Copier) Close() { c.pipes.close() }

// bufferSize is the unit in which bytes pass through this process where the
// kernel cannot pass them by itself.
const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// output is what bytes are written to. It keeps its own failure, which distinguishes it
// from one of reading.
type output interface {
	io.Writer
	failure() error
}

// copyBuffered copies from a Conn that is no socket until it ends. A source that has a
// buffer of its own, which it shows by WriteTo, needs none here.
func copyBuffered(dst output, src io.Reader) (int64, error) {
	var buf []byte
	if _, ok := src.(io.WriterTo); !ok {
		b := buffers.Get().(*[bufferSize]byte)
		defer buffers.Put(b)
		buf = b[:]
	}
	n, err := io.CopyBuffer(dst, src, buf)
	if failure := dst.failure(); failure != nil {
		err = failure
	}
	return n, err
}
