// Package container finds the network namespace that a target without a cluster stands for, and what is around a program
// that runs in a container itself. Containers of an engine it follows, and enters those of other machines by a helper container.
// It must not know what is done with a connection, nor of clusters.
package container

import (
	"context"
	"errors"
	"fmt"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Open is a route.Opener for the network namespaces of this host: it opens one and
// checks that it can be entered. Errors are those of package netns. All of a process are
// final: later its number may be that of another process, which nobody has asked for.
func Open(_ context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	var ns *netns.Namespace
	var err error
	switch f.Target.Scheme {
	case target.PID:
		ns, err = netns.OpenPID(f.Target.PID)
	case target.NetNS:
		ns, err = netns.OpenPath(f.Target.Path)
	default:
		return nil, fmt.Errorf("target %s: %w", f.Target, target.ErrUnknown)
	}
	if err == nil {
		if err = ns.Check(); err != nil {
			ns.Close()
		}
	}
	switch {
	case err == nil:
		events(route.Event{Kind: route.Ready})
		var bind route.Binder = ns.Bind
		if f.Target.Scheme == target.NetNS {
			bind = atPath(f.Target.Path, bind)
		}
		return &route.Result{Route: ns, Ports: f.Ports, Bind: bind, Listening: ns.WatchWithProcesses}, nil
	case f.Target.Scheme == target.PID, errors.Is(err, netns.ErrPermission), errors.Is(err, netns.ErrUnsupported):
		err = &route.FinalError{Err: err}
	}
	return nil, err
}
