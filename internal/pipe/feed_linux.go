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

// drawer is a Conn that can draw from a socket by itself, see FrameSplicer: SpliceFrom sends what src
// has until there is no more for now. The error is io.EOF at the source's end; of other
// errors those of FrameSplicer.Load are the source's.
type drawer interface {
	SpliceFrom(src syscall.RawConn) (int64, error)
}

// reserver is a Conn whose owner bounds what is held while it is written to.
type reserver interface {
	// TryReserve says whether n octets may be held now, and counts them until
	// Release.
	TryReserve(n int) bool
	// Reserve waits until they may be. The error is why nothing can be written.
	Reserve(n int) error
	Release(n int)
}

// feeder moves one direction from a socket to a Conn that is none. Like a mover it
// holds no buffer while it waits for bytes, and checks its source while a write stalls.
type feeder struct {
	*timedWriter
	in     syscall.RawConn
	drawer drawer          // dst, or nil
	drawn  syscall.RawConn // in, as the drawer gets it

	reserver reserver // dst, or nil
	reserved bool     // room for buf
	short    bool     // of room

	buf     *[bufferSize]byte
	held    int
	readErr error
	ended   bool // SpliceFrom has seen the source's end
}

// counted is a source that counts how often it is drawn from.
type counted struct {
	syscall.RawConn
	moved *atomic.Int64
}

func (c counted) Control(f func(fd uintptr)) error {
	c.moved.Add(1)
	return c.RawConn.Control(f)
}

// feed copies from a socket until it ends.
func feed(dst, src *end, s socket) (n int64, err error) {
	in, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	f := &feeder{timedWriter: newTimedWriter(dst, src), in: in, drawn: counted{in, &src.moved}}
	f.drawer, _ = dst.Conn.(drawer)
	f.reserver, _ = dst.Conn.(reserver)
	defer f.release()
	return f.run()
}

func (f *feeder) run() (n int64, err error) {
	take := f.take // made once: a method value allocates
	for {
		if err := f.in.Read(take); err != nil {
			return n, err
		}
		if f.short {
			f.begin() // a wait like that of a write: the source may be lost meanwhile
			if err := f.finish(f.reserver.Reserve(bufferSize)); err != nil {
				return n, err
			}
			f.short, f.reserved = false, true
			continue
		}
		if f.readErr != nil {
			return n, &net.OpError{Op: "read", Net: "tcp", Err: f.readErr}
		}
		if f.held == 0 {
			return n, confirmEnd(f.src, f.in)
		}
		w, err := f.give()
		n += w
		switch {
		case err != nil:
			return n, err
		case f.ended:
			return n, confirmEnd(f.src, f.in)
		}
	}
}

// take fills the buffer from the source; it reports false to be called again when
// the source is readable.
func (f *feeder) take(fd uintptr) (done bool) {
	if f.buf == nil {
		if f.short = !f.reserve(); f.short {
			return true
		}
		f.buf = buffers.Get().(*[bufferSize]byte)
	}
	f.held, f.readErr = nonblock.Read(int(fd), f.buf[:])
	if errors.Is(f.readErr, unix.EAGAIN) {
		f.held, f.readErr = 0, nil
		f.release()
		return false
	}
	return true
}

// give writes what is held. Behind a full buffer there is probably more, which the
// destination may draw by itself.
func (f *feeder) give() (int64, error) {
	w, err := f.Write(f.buf[:f.held])
	n := int64(w)
	if err == nil && w == bufferSize && f.drawer != nil {
		var drawn int64
		drawn, err = f.draw()
		n += drawn
	}
	return n, err
}

func (f *feeder) draw() (int64, error) {
	f.release()
	f.begin()
	n, err := f.drawer.SpliceFrom(f.drawn)
	var failed readError
	switch {
	case err == io.EOF: //nolint:errorlint // itself: the source's end, and no failure
		f.ended, err = true, nil
	case errors.As(err, &failed):
		_ = f.finish(nil)
		return n, failed.error
	}
	return n, f.finish(err)
}

// reserve says whether there may be a buffer.
func (f *feeder) reserve() bool {
	if f.reserver != nil && !f.reserved {
		f.reserved = f.reserver.TryReserve(bufferSize)
		return f.reserved
	}
	return true
}

func (f *feeder) release() {
	if f.reserved {
		f.reserver.Release(bufferSize)
		f.reserved = false
	}
	if f.buf != nil {
		buffers.Put(f.buf)
		f.buf = nil
	}
}
