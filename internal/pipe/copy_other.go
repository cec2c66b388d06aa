//go:build !linux

package pipe

import "io"

// copyUntilEOF copies through a buffer: splice(2) is Linux' own. The buffers of net's own
// sockets are no better than this package's.
func (c *Copier) copyUntilEOF(dst, src *side) (int64, error) {
	w := newTimedWriter(dst, src)
	if src.socket != nil {
		return copyBuffered(w, struct{ io.Reader }{src.Conn})
	}
	return copyBuffered(w, src.Conn)
}

// awaitSocketError returns at once: without Linux' socket errors there is nothing
// to wait for, and a reset after the end of file shows with the next write.
func (*side) awaitSocketError() error { return nil }

// takeSocketError cannot find out here without reading.
func (*side) takeSocketError() error { return nil }

// awaitAcks does not wait: how much of what was written has arrived is not known here. On
// loopback, where most clients are, all of it has.
func (*side) awaitAcks() {}

// pipePool is empty where nothing is spliced.
type pipePool struct{}

func (*pipePool) close() {}
