package pipe

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// FrameSplicer sends octets of many sockets over one, with heads of its owner's between them,
// and the kernel moves them: first Load, then Send. Both are for one goroutine, the one
// that also writes to the socket otherwise.
type FrameSplicer struct {
	copier *Copier
	out    syscall.RawConn
	pipe   *kernelPipe
	head   []byte
	held   int
	err    error
	give   func(fd uintptr) bool // a value, made once
}

// FrameSplicer returns the FrameSplicer that ends in conn, or nil if conn is no socket.
func (c *Copier) FrameSplicer(conn net.Conn) *FrameSplicer {
	s, ok := conn.(socket)
	if !ok {
		return nil
	}
	out, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	t := &FrameSplicer{copier: c, out: out}
	t.give = t.put
	return t
}

// readError is a failure of the socket that was read from.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// Load takes up to limit octets off a socket, as many as there are, and never waits: 0
// octets without an error are nothing for now, or no room in the kernel. The error is
// io.EOF at the socket's end.
func (t *FrameSplicer) Load(src syscall.RawConn, limit int) (n int, err error) {
	if t.pipe = t.copier.pipes.get(t.copier.MaxPipes); t.pipe == nil {
		return 0, nil
	}
	failed := src.Control(func(fd uintptr) { n, err = nonblock.Splice(int(fd), t.pipe.w, limit) })
	switch {
	case failed != nil:
		err = readError{failed}
	case n > 0:
		t.held = n
		return n, nil
	case err == nil:
		err = io.EOF
	case errors.Is(err, unix.EAGAIN):
		err = nil
	default:
		err = readError{&net.OpError{Op: "read", Net: "tcp", Err: err}}
	}
	t.release()
	return 0, err
}

// Send writes head, and behind it what was loaded. It waits while the peer takes
// nothing. After an error a part has gone.
func (t *FrameSplicer) Send(head []byte) error {
	defer t.release()
	t.head, t.err = head, nil
	if err := t.out.Write(t.give); err != nil {
		return err
	}
	if t.err != nil {
		return &net.OpError{Op: "write", Net: "tcp", Err: t.err}
	}
	return nil
}

// put writes what is left of the head and of the load; it reports false to be called
// again when the socket is writable.
func (t *FrameSplicer) put(fd uintptr) (done bool) {
	for len(t.head) > 0 || t.held > 0 {
		err := t.putSome(int(fd))
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err != nil {
			t.err = err
			return true
		}
	}
	return true
}

func (t *FrameSplicer) putSome(fd int) error {
	if len(t.head) > 0 {
		n, err := nonblock.WriteMore(fd, t.head)
		t.head = t.head[n:]
		return err
	}
	n, err := t.pipe.drain(fd, t.held)
	t.held -= n
	return err
}

// release gives the kernel's pipe back; one with octets left in it is of no more use.
func (t *FrameSplicer) release() {
	if t.pipe != nil {
		t.copier.pipes.put(t.pipe, t.held == 0)
		t.pipe, t.head, t.held = nil, nil, 0
	}
}
