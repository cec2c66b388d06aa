package pipe

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// spliceReceiver is a Conn that can take bytes from a socket by itself, see
// FrameSplicer: SpliceFrom sends what src has until there is no more for now. The error
// is io.EOF at the source's end; of other errors those of FrameSplicer.Load are the
// source's.
type spliceReceiver interface {
	SpliceFrom(src syscall.RawConn) (int64, error)
}

// reserver is a Conn whose owner bounds what is held while it is written to.
type reserver interface {
	// TryReserve says whether n bytes may be held now, and counts them until
	// Release.
	TryReserve(n int) bool
	// Reserve waits until they may be. The error is why nothing can be written.
	Reserve(n int) error
	Release(n int)
}

// socketCopier moves one direction from a socket to a Conn that is none. Like a
// spliceCopier it holds no buffer while it waits for bytes.
type socketCopier struct {
	*timedWriter
	receiver spliceReceiver  // dst, or nil
	counted  syscall.RawConn // src, as the receiver gets it

	reserver  reserver // dst, or nil
	reserved  bool     // room for buf
	needsRoom bool     // none could be reserved at once

	buf     *[bufferSize]byte
	held    int // bytes in buf
	readErr error
}

// progressCounter is a source that counts how often it is taken from.
type progressCounter struct {
	syscall.RawConn
	progress *atomic.Int64
}

func (c progressCounter) Control(f func(fd uintptr)) error {
	c.progress.Add(1)
	return c.RawConn.Control(f)
}

// copyFromSocket copies from a socket until it ends.
func copyFromSocket(dst, src *side) (n int64, err error) {
	c := &socketCopier{timedWriter: newTimedWriter(dst, src), counted: progressCounter{src.raw, &src.progress}}
	c.receiver, _ = dst.Conn.(spliceReceiver)
	c.reserver, _ = dst.Conn.(reserver)
	defer c.release()
	fill := c.fill // made once: a method value allocates
	for {
		err := src.raw.Read(fill)
		switch {
		case err != nil:
			return n, err
		case c.needsRoom:
			if err := c.reserve(); err != nil {
				return n, err
			}
			continue
		case c.readErr != nil:
			return n, &net.OpError{Op: "read", Net: "tcp", Err: c.readErr}
		case c.held == 0:
			return n, src.confirmEOF()
		}
		w, err := c.Write(c.buf[:c.held])
		n += int64(w)
		ended := false
		if err == nil && w == bufferSize && c.receiver != nil {
			var spliced int64 // behind a full buffer there is probably more
			spliced, ended, err = c.splice()
			n += spliced
		}
		if err == nil && ended {
			err = src.confirmEOF()
		}
		if err != nil || ended {
			return n, err
		}
	}
}

// fill takes from the source what a buffer holds, if there is room for one; it reports
// false to be called again when the source is readable.
func (c *socketCopier) fill(fd uintptr) (done bool) {
	if c.buf == nil {
		if c.reserver != nil && !c.reserved {
			c.reserved = c.reserver.TryReserve(bufferSize)
			if c.needsRoom = !c.reserved; c.needsRoom {
				return true
			}
		}
		c.buf = buffers.Get().(*[bufferSize]byte)
	}
	c.held, c.readErr = nonblock.Read(int(fd), c.buf[:])
	if errors.Is(c.readErr, unix.EAGAIN) {
		c.held, c.readErr = 0, nil
		c.release()
		return false
	}
	return true
}

// reserve waits for room for a buffer, timed like a write: the source may be lost
// meanwhile.
func (c *socketCopier) reserve() error {
	c.begin()
	if err := c.finish(c.reserver.Reserve(bufferSize)); err != nil {
		return err
	}
	c.needsRoom, c.reserved = false, true
	return nil
}

// splice has the destination take from the source what there is, and says whether the
// source has ended.
func (c *socketCopier) splice() (n int64, ended bool, err error) {
	c.release()
	c.begin()
	n, err = c.receiver.SpliceFrom(c.counted)
	var failed readError
	switch {
	case err == io.EOF: //nolint:errorlint // itself: the source's end, and no failure
		return n, true, c.finish(nil)
	case errors.As(err, &failed):
		_ = c.finish(nil)
		return n, false, failed.error
	}
	return n, false, c.finish(err)
}

// release gives back the buffer, and the room for it.
func (c *socketCopier) release() {
	if c.reserved {
		c.reserver.Release(bufferSize)
		c.reserved = false
	}
	if c.buf != nil {
		buffers.Put(c.buf)
		c.buf = nil
	}
}
