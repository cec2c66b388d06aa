// Package route says what leads to a target.
// It must not know any kind of target: whoever brings one depends on this package.
package route

import (
	"context"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// Dialer opens connections to addresses of one target. It is called from many
// goroutines at once, and the caller owns what it returns.
type Dialer interface {
	Dial(ctx context.Context, to target.Address) (pipe.Conn, error)
}
