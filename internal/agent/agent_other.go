//go:build !linux

package agent

import (
	"errors"

	"porthole.dev/porthole/internal/target"
)

// Protect returns an error: agents in pods need Linux.
func Protect() error { return errors.ErrUnsupported }

// There are no targets to listen at here, so that claim and hold have nothing to do.

func claim(target.Endpoint, string) {}

func hold(target.Endpoint, string, func()) (release func()) { return func() {} }

// dropProgram does nothing: madvise(2) is Linux'.
func dropProgram() {}
