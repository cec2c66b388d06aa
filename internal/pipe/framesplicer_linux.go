package pipe

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// FrameSplicer sends frames over a socket whose payload the kernel moves there from other
// sockets: Load takes the payload, Send writes a frame's head and the payload behind it.
// Both are for one goroutine, the one that also writes to the socket otherwise.
type FrameSplicer struct {
	copier *Copier
	out    syscall.RawConn
	pipe   *kernelPipe
	head   []byte
	held   int
	err    error
	write  func(fd uintptr) bool // writeSome as a value, made once: a method value allocates
}

// FrameSplicer returns a FrameSplicer that sends over conn, or nil if conn is no socket.
func (c *Copier) FrameSplicer(conn net.Conn) *FrameSplicer {
	k, ok := conn.(socket)
	if !ok {
		return nil
	}
	out, err := k.SyscallConn()
	if err != nil {
		return nil
	}
	s := &FrameSplicer{copier: c, out: out}
	s.write = s.writeSome
	return s
}

// readError is a failure of the socket that was read from.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// Load takes up to limit bytes from a socket, as many as there are, and never waits: 0
// bytes without an error mean nothing for now, or no room in the kernel. The error is
// io.EOF at the socket's end.
func (s *FrameSplicer) Load(src syscall.RawConn, limit int) (n int, err error) {
	if s.pipe = s.copier.pipes.get(s.copier.MaxPipes); s.pipe == nil {
		return 0, nil
	}
	failed := src.Control(func(fd uintptr) { n, err = nonblock.Splice(int(fd), s.pipe.w, limit) })
	switch {
	case failed != nil:
		err = readError{failed}
	case n > 0:
		s.held = n
		return n, nil
	case err == nil:
		err = io.EOF
	case errors.Is(err, unix.EAGAIN):
		err = nil
	default:
		err = readError{&net.OpError{Op: "read", Net: "tcp", Err: err}}
	}
	s.release()
	return 0, err
}

// Send writes head, and behind it what was loaded. It waits while the peer takes
// nothing. After an error a part may have been sent.
func (s *FrameSplicer) Send(head []byte) error {
	defer s.release()
	s.head, s.err = head, nil
	if err := s.out.Write(s.write); err != nil {
		return err
	}
	if s.err != nil {
		return &net.OpError{Op: "write", Net: "tcp", Err: s.err}
	}
	return nil
}

// writeSome writes what is left of the head and of what was loaded; it reports false to be
// called again when the socket is writable.
func (s *FrameSplicer) writeSome(fd uintptr) (done bool) {
	for len(s.head) > 0 || s.held > 0 {
		var n int
		var err error
		if len(s.head) > 0 {
			n, err = nonblock.WriteMore(int(fd), s.head)
			s.head = s.head[n:]
		} else {
			n, err = s.pipe.spliceTo(int(fd), s.held)
			s.held -= n
		}
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err != nil {
			s.err = err
			return true
		}
	}
	return true
}

// release gives the kernel's pipe back; one with bytes left in it is of no more use.
func (s *FrameSplicer) release() {
	if s.pipe != nil {
		s.copier.pipes.put(s.pipe, s.held == 0)
		s.pipe, s.head, s.held = nil, nil, 0
	}
}
