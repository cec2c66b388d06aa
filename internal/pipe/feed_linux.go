package pipe

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// drawer is a Conn that can draw from a socket by itself, see Trunk: Draw sends what src
// has until there is no more for now. The error is io.EOF at the source's end.
type drawer interface {
	Draw(src syscall.RawConn) (int64, error)
}

// feeder moves one direction from a socket to a Conn that is none. Like a mover it
// waits for bytes empty-handed, and has an eye on its source while a write stalls.
type feeder struct {
	dst    Conn
	drawer drawer // dst, or nil
	src    syscall.RawConn
	buf    *[bufferSize]byte
	held   int
	err    error
	ended  bool // Draw has seen the source's end

	stall *time.Timer // runs look while a write is under way
	mu    sync.Mutex
	lost  error // what look found
}

// feed copies from a socket until it ends.
func feed(dst Conn, src socket) (n int64, err error) {
	in, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	f := &feeder{dst: dst, src: in}
	f.drawer, _ = dst.(drawer)
	f.stall = time.AfterFunc(stallCheck, f.look)
	f.stall.Stop()
	defer f.stall.Stop()
	defer f.release()
	return f.run()
}

func (f *feeder) run() (n int64, err error) {
	take := f.take // made once: a method value allocates
	for {
		if err := f.src.Read(take); err != nil {
			return n, err
		}
		if f.err != nil {
			return n, &net.OpError{Op: "read", Net: "tcp", Err: f.err}
		}
		if f.held == 0 {
			return n, nil
		}
		w, err := f.give()
		n += w
		if err != nil || f.ended {
			return n, err
		}
	}
}

// take fills the buffer from the source; it reports false to be called again when
// the source is readable.
func (f *feeder) take(fd uintptr) (done bool) {
	if f.buf == nil {
		f.buf = buffers.Get().(*[bufferSize]byte)
	}
	f.held, f.err = nonblock.Read(int(fd), f.buf[:])
	if errors.Is(f.err, unix.EAGAIN) {
		f.held, f.err = 0, nil
		f.release()
		return false
	}
	return true
}

// give writes what is held. Behind a full buffer there is probably more, which the
// destination may draw by itself.
func (f *feeder) give() (n int64, err error) {
	f.stall.Reset(stallCheck)
	n, err = f.write()
	if err == nil && n == bufferSize && f.drawer != nil {
		var drawn int64
		drawn, err = f.draw()
		n += drawn
	}
	f.stall.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost != nil {
		err = f.lost
	}
	return n, err
}

func (f *feeder) write() (int64, error) {
	n, err := f.dst.Write(f.buf[:f.held])
	if err == nil && n < f.held {
		err = io.ErrShortWrite
	}
	return int64(n), err
}

func (f *feeder) draw() (int64, error) {
	f.release()
	n, err := f.drawer.Draw(f.src)
	if err == io.EOF { //nolint:errorlint // itself: the source's end, and no failure
		f.ended, err = true, nil
	}
	return n, err
}

// look asks the source, while a write stalls, whether it still lives, and ends the
// write if it does not.
func (f *feeder) look() {
	var failure error
	if err := f.src.Control(func(fd uintptr) { failure = socketError(int(fd)) }); err != nil {
		failure = err
	}
	if failure == nil {
		f.stall.Reset(stallCheck)
		return
	}
	f.mu.Lock()
	f.lost = failure
	f.mu.Unlock()
	f.interrupt()
}

// interrupt ends a write under way, if it can without a failure of its own, that
// would be taken for the first.
func (f *feeder) interrupt() {
	if d, ok := f.dst.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Unix(0, 0))
		return
	}
	_ = Reset(f.dst)
}

func (f *feeder) release() {
	if f.buf != nil {
		buffers.Put(f.buf)
		f.buf = nil
	}
}
