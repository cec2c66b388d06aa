//go:build !linux

package pipe

import (
	"io"
	"syscall"
)

// move copies through a buffer: splice(2) is Linux' own. The buffers of net's own
// sockets are no better than this package's.
func (c *Copier) move(dst, src Conn) (int64, error) {
	if _, ok := src.(syscall.Conn); ok {
		return moveBuffered(dst, struct{ io.Reader }{src})
	}
	return moveBuffered(dst, src)
}

// awaitFailure returns at once: without Linux' socket errors there is nothing
// to wait for, and a reset after the end of file shows with the next write.
func awaitFailure(Conn) error { return nil }

// pipePool is empty where nothing is spliced.
type pipePool struct{}

func (*pipePool) close() {}
