package pipe

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// socket is what splice(2) needs of both Conns. *net.TCPConn has it.
type socket interface {
	Conn
	syscall.Conn
	SetWriteDeadline(time.Time) error
}

// move copies from src to dst until src ends, inside the kernel where both are sockets.
func (c *Copier) move(dst, src *end) (int64, error) {
	d, dok := dst.Conn.(socket)
	s, sok := src.Conn.(socket)
	switch {
	case dok && sok:
		return c.splice(dst, src, d, s)
	case sok:
		return feed(dst, src, s)
	case dok:
		w, err := newSocketWriter(dst, src, d)
		if err != nil {
			return 0, err
		}
		return moveBuffered(w, src.Conn)
	}
	return moveBuffered(newTimedWriter(dst, src), src.Conn)
}

// mover moves one direction between two sockets. It waits for bytes empty
// handed, so that an idle connection costs its two descriptors and no buffer,
// and borrows a kernel pipe (or, with none to be had, a buffer) while bytes are
// on their way.
type mover struct {
	sink
	copier *Copier
	in     syscall.RawConn

	pipe *kernelPipe
	buf  *[bufferSize]byte
	off  int // where the held bytes start in buf
	err  error
}

func (c *Copier) splice(dst, src *end, d, s socket) (int64, error) {
	in, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	m := &mover{copier: c, in: in}
	if err := m.init(dst, src, d, m.put); err != nil {
		return 0, err
	}
	defer m.release()
	return m.run()
}

func (m *mover) run() (n int64, err error) {
	fill := m.take // made once: a method value allocates
	for {
		if err := m.in.Read(fill); err != nil {
			return n, err
		}
		if m.err != nil {
			return n, &net.OpError{Op: "read", Net: "tcp", Err: m.err}
		}
		if m.held == 0 {
			return n, confirmEnd(m.src, m.in)
		}
		got := m.held
		err := m.deliver()
		n += int64(got - m.held)
		if err != nil {
			return n, err
		}
	}
}

// take fills the pipe or the buffer from the source; it reports false to be
// called again when the source is readable.
func (m *mover) take(fd uintptr) (done bool) {
	m.borrow()
	if m.pipe != nil {
		m.held, m.err = nonblock.Splice(int(fd), m.pipe.w, m.pipe.size)
	} else {
		m.off = 0
		m.held, m.err = nonblock.Read(int(fd), m.buf[:])
	}
	if errors.Is(m.err, unix.EAGAIN) {
		m.held, m.err = 0, nil
		m.release()
		return false
	}
	return true
}

// put writes some of what is held to the destination.
func (m *mover) put(fd int) (int, error) {
	if m.pipe == nil {
		n, err := nonblock.Write(fd, m.buf[m.off:m.off+m.held])
		m.off += n
		return n, err
	}
	return m.pipe.drain(fd, m.held)
}

// borrow sees to it that the mover holds a pipe or a buffer.
func (m *mover) borrow() {
	if m.pipe != nil || m.buf != nil {
		return
	}
	if m.pipe = m.copier.pipes.get(m.copier.MaxPipes); m.pipe == nil {
		m.buf = buffers.Get().(*[bufferSize]byte)
	}
}

// release gives back what was borrowed; a pipe with bytes left in it is of no more use.
func (m *mover) release() {
	if m.pipe != nil {
		m.copier.pipes.put(m.pipe, m.held == 0)
		m.pipe = nil
	}
	if m.buf != nil {
		buffers.Put(m.buf)
		m.buf = nil
	}
}

// awaitFailure waits, after src's end of file, until src fails or is closed.
func awaitFailure(src Conn) error {
	s, ok := src.(socket)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		failure = socketError(int(fd))
		return failure != nil
	})
	if err != nil {
		return err
	}
	return failure
}

// pendingError is the error that a socket has for its next reader or writer, who
// then does not get it any more.
func pendingError(c Conn) error {
	s, ok := c.(socket)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	if err := raw.Control(func(fd uintptr) { failure = socketError(int(fd)) }); err != nil {
		return err
	}
	return failure
}

// socketError is the socket's pending error, SO_ERROR of socket(7). Reading it clears it.
func socketError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return &net.OpError{Op: "read", Net: "tcp", Err: syscall.Errno(code)}
	}
	return nil
}
