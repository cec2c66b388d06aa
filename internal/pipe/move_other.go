//go:build !linux

package pipe

// move copies through a buffer: splice(2) is Linux' own.
func (c *Copier) move(dst, src Conn) (int64, error) { return moveBuffered(dst, src) }

// awaitFailure returns at once: without Linux' socket errors there is nothing
// to wait for, and a reset after the end of file shows with the next write.
func awaitFailure(Conn) error { return nil }

// pipePool is empty where nothing is spliced.
type pipePool struct{}

func (*pipePool) close() {}
