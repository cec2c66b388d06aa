//go:build !linux

package container

import (
	"context"

	"porthole.dev/porthole/internal/route"
)

// openNative returns ErrElsewhere: containers run in Linux, which is another machine.
func openNative(context.Context, found) (*route.Result, error) { return nil, ErrElsewhere }
