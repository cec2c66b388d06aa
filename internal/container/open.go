package container

import (
	"context"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// openContainer opens one container that runs, by what via says. The Result has no Ports.
func (o *Opener) openContainer(ctx context.Context, _ engine, _ target.Via, c found) (*route.Result, error) {
	return openNative(ctx, c)
}
