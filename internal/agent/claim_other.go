//go:build !linux

package agent

import "porthole.dev/porthole/internal/target"

// claim does nothing: there are no targets to listen at here.
func claim(target.Endpoint, string) {}

// hold does nothing.
func hold(target.Endpoint, string, func()) (release func()) { return func() {} }
