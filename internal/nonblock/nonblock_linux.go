package nonblock

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read is read(2). Its errors are those of the system, EAGAIN among them; 0 bytes
// without one are the end of file.
func Read(fd int, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// Write is write(2). It may take less than p.
func Write(fd int, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// WriteMore is Write to a socket when more follows at once, which leaves in one
// packet with it (MSG_MORE of send(2)).
func WriteMore(fd int, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			unix.MSG_MORE, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// Splice is splice(2): it moves up to n bytes between two descriptors, one of which is
// a pipe(7), without copying them.
func Splice(from, to, n int) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
			unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

func result(n uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Of returns a reader and writer of a socket of package net, or of a file that does not block, by
// the calls of this package, or c itself if it is neither. Deadlines and Close remain those of c.
func Of(c io.ReadWriter) io.ReadWriter {
	s, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	_, network := c.(net.Conn)
	return socket{raw, network}
}

// pipeSize is what a pipe is asked to hold, so that both its ends move much at once.
const pipeSize = 1 << 20

// File returns a reader and writer of one end of a pipe that does not block, or of another such
// file, by the calls of this package. A pipe is made larger where the user may have that.
// Deadlines and Close remain those of f.
func File(f *os.File) io.ReadWriter {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
	return Of(f)
}

// socket is safe for calls at the same time, as a net.Conn is.
type socket struct {
	raw     syscall.RawConn
	network bool // and no file
}

// failure returns the error of a call.
func (s socket) failure(op string, err error) error {
	if !s.network {
		return os.NewSyscallError(op, err)
	}
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

// Read implements io.Reader.
func (s socket) Read(p []byte) (n int, err error) {
	waited := s.raw.Read(func(fd uintptr) bool {
		n, err = Read(int(fd), p)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, s.failure("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (s socket) Write(p []byte) (n int, err error) {
	waited := s.raw.Write(func(fd uintptr) bool {
		for n < len(p) && err == nil {
			var m int
			m, err = Write(int(fd), p[n:])
			n += m
		}
		if errors.Is(err, unix.EAGAIN) {
			err = nil
			return false
		}
		return true
	})
	switch {
	case waited != nil:
		return n, waited
	case err != nil:
		return n, s.failure("write", err)
	}
	return n, nil
}
