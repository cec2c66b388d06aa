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

// sink writes to a socket, and looks after its source while the socket takes nothing.
type sink struct {
	stall
	socket   socket
	out      syscall.RawConn
	held     int                       // bytes that are to be written
	put      func(fd int) (int, error) // writes some of them
	drain    func(fd uintptr) bool     // give as a value, made once: a method value allocates
	writeErr error
}

func (s *sink) init(dst, src *end, d socket, put func(fd int) (int, error)) error {
	out, err := d.SyscallConn()
	if err != nil {
		return writeError{err}
	}
	s.stall = stall{dst: dst, src: src}
	s.socket, s.out, s.put = d, out, put
	s.drain = s.give
	return nil
}

// deliver writes all that is held.
func (s *sink) deliver() error {
	for {
		err := s.out.Write(s.drain)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := s.check(); err != nil {
				return err
			}
			// Reading on would be wrong, waiting on is right: re-arm.
			if err := s.socket.SetWriteDeadline(time.Now().Add(stallCheck)); err != nil {
				return writeError{err}
			}
		case err != nil:
			return writeError{err}
		case s.writeErr != nil:
			return writeError{&net.OpError{Op: "write", Net: "tcp", Err: s.writeErr}}
		default:
			return nil
		}
	}
}

// give writes what is held; it reports false to be called again when the destination
// is writable.
func (s *sink) give(fd uintptr) (done bool) {
	for s.held > 0 {
		n, err := s.put(int(fd))
		if errors.Is(err, unix.EAGAIN) {
			// An expired deadline stays behind on purpose: the next stall
			// then costs one more round of deliver, not a timer per write.
			_ = s.socket.SetWriteDeadline(time.Now().Add(stallCheck))
			return false
		}
		if err != nil {
			s.writeErr = err
			return true
		}
		s.held -= n
		s.src.moved.Add(1)
	}
	return true
}

// socketWriter is a sink for what comes from a Conn that is no socket.
type socketWriter struct {
	sink
	buf []byte
	err error
}

func newSocketWriter(dst, src *end, d socket) (*socketWriter, error) {
	w := &socketWriter{}
	return w, w.init(dst, src, d, w.writeSome)
}

// Write implements io.Writer.
func (w *socketWriter) Write(p []byte) (int, error) {
	w.buf, w.held = p, len(p)
	w.err = w.deliver()
	n := len(p) - w.held
	w.buf = nil
	return n, w.err
}

func (w *socketWriter) writeSome(fd int) (int, error) {
	n, err := nonblock.Write(fd, w.buf)
	w.buf = w.buf[n:]
	return n, err
}

func (w *socketWriter) failure() error { return w.err }
