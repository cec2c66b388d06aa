package pipe

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// feed moves bytes of a socket to a Conn that is none until src ends. Like a
// mover it waits empty-handed: it has a buffer only while bytes are on their way.
func feed(dst Conn, src socket) (n int64, err error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	f := feeder{src: raw}
	f.fill = f.take
	defer f.release()
	for {
		held, err := f.read()
		if err != nil || held == 0 {
			return n, err
		}
		w, err := dst.Write(f.buf[:held])
		n += int64(w)
		if err != nil {
			return n, err
		}
	}
}

type feeder struct {
	src  syscall.RawConn
	buf  *[bufferSize]byte
	held int // bytes taken from src
	err  error

	fill func(fd uintptr) bool // take as a value, made once
}

// read waits for bytes and returns how many are in the buffer, 0 after the last.
func (f *feeder) read() (int, error) {
	if err := f.src.Read(f.fill); err != nil {
		return 0, err
	}
	if f.err != nil {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: f.err}
	}
	return f.held, nil
}

// take reads what is there; it reports false to be called again when the source
// is readable.
func (f *feeder) take(fd uintptr) (done bool) {
	if f.buf == nil {
		f.buf = buffers.Get().(*[bufferSize]byte)
	}
	f.held, f.err = retry(func() (int, error) { return unix.Read(int(fd), f.buf[:]) })
	if errors.Is(f.err, unix.EAGAIN) {
		f.release()
		return false
	}
	return true
}

func (f *feeder) release() {
	if f.buf != nil {
		buffers.Put(f.buf)
		f.buf = nil
	}
}
