//go:build !linux

package container

import "porthole.dev/porthole/internal/target"

// newContainerd returns ErrUnsupported.
func newContainerd() (engine, error) {
	return nil, &EngineError{Engine: target.Containerd, Err: ErrUnsupported}
}

// newCRI returns ErrUnsupported.
func newCRI() (engine, error) { return nil, &EngineError{Engine: target.CRI, Err: ErrUnsupported} }
