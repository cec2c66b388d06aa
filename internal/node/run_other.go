//go:build !linux

package node

import (
	"context"
	"log/slog"
)

// Run returns ErrUnsupported.
func (*Node) Run(context.Context) error { return ErrUnsupported }

// RunDataPath returns ErrUnsupported.
func RunDataPath(context.Context, *slog.Logger) error { return ErrUnsupported }

// Prioritize does nothing.
func Prioritize() {}
