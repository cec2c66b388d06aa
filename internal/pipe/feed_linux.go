package pipe

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// feeder moves one direction from a socket to a Conn that is none. Like a mover it
// waits for bytes empty-handed, and has an eye on its source while a write stalls.
type feeder struct {
	dst  Conn
	src  syscall.RawConn
	buf  *[bufferSize]byte
	held int
	err  error

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
		n += int64(w)
		if err != nil {
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
	f.held, f.err = retry(func() (int, error) { return unix.Read(int(fd), f.buf[:]) })
	if errors.Is(f.err, unix.EAGAIN) {
		f.held, f.err = 0, nil
		f.release()
		return false
	}
	return true
}

// give writes what is held.
func (f *feeder) give() (int, error) {
	f.stall.Reset(stallCheck)
	n, err := f.dst.Write(f.buf[:f.held])
	f.stall.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.lost != nil:
		return n, f.lost
	case err == nil && n < f.held:
		err = io.ErrShortWrite
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
