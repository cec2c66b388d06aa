//go:build !linux

package pipe

import (
	"io"
	"syscall"
)

// move copies through a buffer: splice(2) is Linux' own. The buffers of net's own
// sockets are no better than this package's.
func (c *Copier) move(dst, src *end) (int64, error) {
	w := newTimedWriter(dst, src)
	if _, ok := src.Conn.(syscall.Conn); ok {
		return moveBuffered(w, struct{ io.Reader }{src.Conn})
	}
	return moveBuffered(w, src.Conn)
}

// awaitFailure returns at once: without Linux' socket errors there is nothing
// to wait for, and a reset after the end of file shows with the next write.
func awaitFailure(Conn) error { return nil }

// pendingError cannot be told here without reading.
func pendingError(Conn) error { return nil }

// flush does not wait: how much of what was written has arrived is not told here. On
// loopback, where most clients are, it has.
func flush(Conn) {}

// pipePool is empty where nothing is spliced.
type pipePool struct{}

func (*pipePool) close() {}
