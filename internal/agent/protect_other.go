//go:build !linux

package agent

import "errors"

// Protect returns an error: agents in pods need Linux.
func Protect() error { return errors.ErrUnsupported }
