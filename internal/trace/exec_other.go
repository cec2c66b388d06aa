//go:build !linux || !(amd64 || arm64)

package trace

import (
	"context"
	"fmt"
)

// Run returns ErrUnsupported.
func (t *Execs) Run(context.Context) error { return fmt.Errorf("trace exec: %w", ErrUnsupported) }
