package pipe

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// socketWriter writes to a socket what is in a buffer or in a kernel pipe, and checks its
// source while the socket takes nothing.
type socketWriter struct {
	stallWatch
	held     int         // bytes to write, at the beginning of pipe or buf
	pipe     *kernelPipe // nil: they are in buf
	buf      []byte
	write    func(fd uintptr) bool // writeSome as a value, made once: a method value allocates
	writeErr error                 // of the last writeSome
	err      error                 // of Write
}

// Write implements io.Writer, for a source that is no socket.
func (w *socketWriter) Write(p []byte) (int, error) {
	w.buf, w.held = p, len(p)
	w.err = w.writeHeld()
	n := len(p) - w.held
	w.buf = nil
	return n, w.err
}

func (w *socketWriter) failure() error { return w.err }

// writeHeld writes all that is held.
func (w *socketWriter) writeHeld() error {
	if w.write == nil {
		w.write = w.writeSome
	}
	for {
		err := w.dst.raw.Write(w.write)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := w.check(); err != nil {
				return err
			}
			// Reading on would be wrong, waiting on is right: re-arm.
			if err := w.dst.socket.SetWriteDeadline(time.Now().Add(stallCheck)); err != nil {
				return writeError{err}
			}
		case err != nil:
			return writeError{err}
		case w.writeErr != nil:
			return writeError{&net.OpError{Op: "write", Net: "tcp", Err: w.writeErr}}
		default:
			return nil
		}
	}
}

// writeSome writes what is held; it reports false to be called again when the
// destination is writable.
func (w *socketWriter) writeSome(fd uintptr) (done bool) {
	for w.held > 0 {
		var n int
		var err error
		if w.pipe != nil {
			n, err = w.pipe.spliceTo(int(fd), w.held)
		} else {
			n, err = nonblock.Write(int(fd), w.buf[:w.held])
			w.buf = w.buf[n:]
		}
		if errors.Is(err, unix.EAGAIN) {
			// An expired deadline stays behind on purpose: the next stall
			// then costs one more round of writeHeld, not a timer per write.
			_ = w.dst.socket.SetWriteDeadline(time.Now().Add(stallCheck))
			return false
		}
		if err != nil {
			w.writeErr = err
			return true
		}
		w.held -= n
		w.src.progress.Add(1)
	}
	return true
}
