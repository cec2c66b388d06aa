package pipe

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// copyUntilEOF copies from src to dst until src ends, inside the kernel where both are
// sockets.
func (c *Copier) copyUntilEOF(dst, src *side) (int64, error) {
	watch := stallWatch{dst: dst, src: src}
	switch {
	case dst.raw != nil && src.raw != nil:
		s := &spliceCopier{socketWriter: socketWriter{stallWatch: watch}, copier: c}
		defer s.release()
		return s.run()
	case src.raw != nil:
		return copyFromSocket(dst, src)
	case dst.raw != nil:
		return copyBuffered(&socketWriter{stallWatch: watch}, src.Conn)
	}
	return copyBuffered(newTimedWriter(dst, src), src.Conn)
}

// spliceCopier moves one direction between two sockets. It holds nothing while it waits
// for bytes, so that an idle connection costs its two descriptors and no buffer, and
// borrows a kernel pipe (or, with none to be had, a buffer) while bytes are on their way.
type spliceCopier struct {
	socketWriter
	copier   *Copier
	borrowed *[bufferSize]byte // what buf is a part of, or nil
	readErr  error
}

func (c *spliceCopier) run() (n int64, err error) {
	fill := c.fill // made once: a method value allocates
	for {
		if err := c.src.raw.Read(fill); err != nil {
			return n, err
		}
		if c.readErr != nil {
			return n, &net.OpError{Op: "read", Net: "tcp", Err: c.readErr}
		}
		if c.held == 0 {
			return n, c.src.confirmEOF()
		}
		got := c.held
		err := c.writeHeld()
		n += int64(got - c.held)
		if err != nil {
			return n, err
		}
	}
}

// fill takes from the source what the pipe or the buffer holds; it reports false to be
// called again when the source is readable.
func (c *spliceCopier) fill(fd uintptr) (done bool) {
	if c.pipe == nil && c.borrowed == nil {
		if c.pipe = c.copier.pipes.get(c.copier.MaxPipes); c.pipe == nil {
			c.borrowed = buffers.Get().(*[bufferSize]byte)
		}
	}
	if c.pipe != nil {
		c.held, c.readErr = nonblock.Splice(int(fd), c.pipe.w, c.pipe.size)
	} else {
		c.buf = c.borrowed[:]
		c.held, c.readErr = nonblock.Read(int(fd), c.buf)
	}
	if errors.Is(c.readErr, unix.EAGAIN) {
		c.held, c.readErr = 0, nil
		c.release()
		return false
	}
	return true
}

// release gives back what was borrowed; a pipe with bytes left in it is of no more use.
func (c *spliceCopier) release() {
	if c.pipe != nil {
		c.copier.pipes.put(c.pipe, c.held == 0)
		c.pipe = nil
	}
	if c.borrowed != nil {
		buffers.Put(c.borrowed)
		c.borrowed, c.buf = nil, nil
	}
}
