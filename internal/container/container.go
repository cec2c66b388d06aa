// Package container finds the network namespace that a target on this host stands for.
// It must not know what is done with the namespace, and never asks another host.
package container

import (
	"fmt"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// Open opens the network namespace of a target and checks that it can be
// entered; the caller closes it. Errors are those of package netns.
func Open(t target.Target) (*netns.Namespace, error) {
	var ns *netns.Namespace
	var err error
	switch t.Scheme {
	case target.PID:
		ns, err = netns.OpenPID(t.PID)
	case target.NetNS:
		ns, err = netns.OpenPath(t.Path)
	default:
		return nil, fmt.Errorf("target %s: %w", t, target.ErrUnknown)
	}
	if err != nil {
		return nil, err
	}
	if err := ns.Check(); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}
