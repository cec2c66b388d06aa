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

// stallCheck is how long a write may be stalled before its source is asked
// whether it is still there. A stalled direction does not read, so it would
// otherwise learn of a reset only when the stall ends.
const stallCheck = 500 * time.Millisecond

// socket is what splice(2) needs of both Conns. *net.TCPConn has it.
type socket interface {
	Conn
	syscall.Conn
	SetWriteDeadline(time.Time) error
}

// move copies from src to dst until src ends, inside the kernel where both are sockets.
func (c *Copier) move(dst, src Conn) (int64, error) {
	d, dok := dst.(socket)
	s, sok := src.(socket)
	switch {
	case !sok:
		return moveBuffered(nonblock.Of(dst), src)
	case !dok:
		return feed(dst, s)
	}
	m, err := newMover(c, d, s)
	if err != nil {
		return 0, err
	}
	defer m.release()
	return m.run()
}

// mover moves one direction between two sockets. It waits for bytes empty
// handed, so that an idle connection costs its two descriptors and no buffer,
// and borrows a kernel pipe (or, with none to be had, a buffer) while bytes are
// on their way.
type mover struct {
	copier   *Copier
	dst      socket
	src, out syscall.RawConn

	pipe *kernelPipe
	buf  *[bufferSize]byte
	off  int // where the held bytes start in buf
	held int // bytes taken from src and not yet given to dst
	err  error

	// fill and drain are take and give as values, made once: the calls
	// repeat for every piece, and a method value allocates.
	fill, drain func(fd uintptr) bool
}

func newMover(c *Copier, dst, src socket) (*mover, error) {
	in, err := src.SyscallConn()
	if err != nil {
		return nil, err
	}
	out, err := dst.SyscallConn()
	if err != nil {
		return nil, err
	}
	m := &mover{copier: c, dst: dst, src: in, out: out}
	m.fill, m.drain = m.take, m.give
	return m, nil
}

func (m *mover) run() (n int64, err error) {
	for {
		if err := m.src.Read(m.fill); err != nil {
			return n, err
		}
		if m.err != nil {
			return n, &net.OpError{Op: "read", Net: "tcp", Err: m.err}
		}
		if m.held == 0 {
			return n, nil
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

// deliver gives all that is held to the destination.
func (m *mover) deliver() error {
	for {
		err := m.out.Write(m.drain)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := m.sourceFailure(); err != nil {
				return err
			}
			// Reading on would be wrong, waiting on is right: re-arm.
			if err := m.dst.SetWriteDeadline(time.Now().Add(stallCheck)); err != nil {
				return err
			}
		case err != nil:
			return err
		case m.err != nil:
			return &net.OpError{Op: "write", Net: "tcp", Err: m.err}
		default:
			return nil
		}
	}
}

// give empties the pipe or the buffer into the destination; it reports false
// to be called again when the destination is writable.
func (m *mover) give(fd uintptr) (done bool) {
	for m.held > 0 {
		n, err := m.put(int(fd))
		if errors.Is(err, unix.EAGAIN) {
			// An expired deadline stays behind on purpose: the next stall
			// then costs one more round of deliver, not a timer per write.
			_ = m.dst.SetWriteDeadline(time.Now().Add(stallCheck))
			return false
		}
		if err != nil {
			m.err = err
			return true
		}
		m.held -= n
		m.off += n
	}
	return true
}

func (m *mover) put(fd int) (int, error) {
	if m.pipe == nil {
		return nonblock.Write(fd, m.buf[m.off:m.off+m.held])
	}
	return m.pipe.drain(fd, m.held)
}

func (m *mover) sourceFailure() error {
	var failure error
	if err := m.src.Control(func(fd uintptr) { failure = socketError(int(fd)) }); err != nil {
		return err
	}
	return failure
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
