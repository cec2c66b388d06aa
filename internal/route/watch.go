package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"porthole.dev/porthole/internal/target"
)

// Watch tells which sockets can be connected to at a target, in the order of target.CompareSockets: at first, and whenever
// that has changed, within a second for TCP and within ten for others, until ctx ends or it cannot be found out any more.
// tell is called by one goroutine, and may keep the slice. A nil Watch is for where it never can be found out.
type Watch func(ctx context.Context, tell func([]target.Socket)) error

// First returns what is told first. There may be sockets and an error too, for those that cannot be listed. Errors:
// target.ErrUnsupported of a nil Watch, why ctx has ended, and those of the Watch.
func (w Watch) First(ctx context.Context) (sockets []target.Socket, err error) {
	if w == nil {
		return nil, fmt.Errorf("what listens there cannot be found out: %w", target.ErrUnsupported)
	}
	watching, end := context.WithCancel(ctx)
	defer end()
	heard := false
	err = w(watching, func(now []target.Socket) {
		if !heard {
			sockets, heard = now, true
		}
		end()
	})
	switch {
	case !heard:
		return nil, cmp.Or(context.Cause(ctx), err)
	case errors.Is(err, context.Canceled):
		return sockets, nil
	}
	return sockets, err
}
