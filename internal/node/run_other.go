//go:build !linux

package node

import "context"

// Run returns ErrUnsupported.
func (*Node) Run(context.Context) error { return ErrUnsupported }
