// Package route says what leads to a target: how it is opened, dialed, told of and waited for.
// It must not know any kind of target: whoever brings one depends on this package.
package route

import (
	"context"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// Dialer opens connections to addresses of one target. It is called from many
// goroutines at once, and the caller owns what it returns.
type Dialer interface {
	Dial(ctx context.Context, to target.Address) (pipe.Conn, error)
}

// Route leads to one target until it is closed.
type Route interface {
	Dialer
	// Wait returns when the target is gone for good, with the reason, or when ctx ends.
	Wait(ctx context.Context) error
	Close() error
}

// Result is a Route that is open, and what was found out by opening it.
type Result struct {
	Route
	Ports []target.Port // those of the forward, all of them numbered
	// PodPort is the pod's port that a service's stands for now; nil where they are the same.
	PodPort func(to target.Address) (uint16, error)
	// Bind listens at the target, for the way back; nil where that cannot be. Its Listeners end with
	// the Route at the latest.
	Bind Binder
	// Listening tells which sockets can be connected to at the target; nil where that cannot be found out.
	Listening Watch
}

// Opener opens the route to a forward's target; who calls it closes the Route. It tells
// events that the target is Ready before it returns, and what becomes of it until the
// Route is closed, one call at a time. A FinalError says that the next attempt would
// fail as well.
type Opener func(ctx context.Context, f target.Forward, events func(Event)) (*Result, error)

// Member is one of those that a target stands for, such as a pod of a StatefulSet.
type Member struct {
	Name  string
	Place int    // of its ports or addresses among those of all members, from 0
	Open  Opener // opens the route to it
}

// Expander tells which members a forward's target has, until ctx ends: at first those that
// can be reached, at least one, and then all of them whenever they change. A place belongs to
// one member at a time. Events are as for an Opener, but for Ready.
type Expander func(ctx context.Context, f target.Forward, events func(Event), tell func([]Member)) error

// FinalError is a failure to open a route that will not pass.
type FinalError struct{ Err error }

func (e *FinalError) Error() string { return e.Err.Error() }

func (e *FinalError) Unwrap() error { return e.Err }
