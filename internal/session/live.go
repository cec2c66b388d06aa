package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

const (
	// retry is how long a forward rests after it could not be opened.
	retry = 5 * time.Second
	// retrySpace is the least time between two attempts, where many forwards rest.
	retrySpace = 100 * time.Millisecond
	// dialTime is how long a connection may take to come up, in addition to Wait.
	dialTime = 10 * time.Second
	// The pauses before it is listened again, at a target or here.
	relistenMin, relistenMax = 50 * time.Millisecond, 5 * time.Second
)

// report says that a forward is open, or why it is not, or what became of its members.
type report struct {
	state        *State
	listeners    []*route.Listener
	err          error
	over         bool
	expanded     bool // its members have changed
	joined, left []*State
}

func (s *Session) report(ctx context.Context, r report) {
	select {
	case s.reports <- r:
	case <-ctx.Done():
	}
}

// eventsOf returns what tells of a forward. That a member has left is told by itself, so
// that its connections are waited for in silence.
func (s *Session) eventsOf(ctx context.Context, f target.Forward) func(route.Event) {
	return func(e route.Event) {
		if e.Kind == route.Draining && errors.Is(context.Cause(ctx), errLeft) {
			return
		}
		e.Target, e.Member, e.Reverse = f.Whole(), f.Member, f.Reverse
		s.Events(e)
	}
}

// retries reports whether a forward that fails is tried again: members are in any case,
// because the others go on.
func (s *Session) retries(f target.Forward) bool { return s.Retry || f.Member != "" }

// isOver reports whether a forward is over for good because its target could not be opened.
func (s *Session) isOver(f target.Forward, err error) bool {
	var final *route.FinalError
	return !s.retries(f) || errors.As(err, &final)
}

// live is one forward's life, until ctx ends or it is over for good.
func (s *Session) live(ctx context.Context, st *State, open route.Opener) {
	s.lives.Add(1)
	defer s.lives.Add(-1)
	for {
		over, err := s.attempt(ctx, st, open)
		s.report(ctx, report{state: st, err: err, over: over})
		if over || ctx.Err() != nil {
			return
		}
		s.pause(ctx)
	}
}

// attempt opens the route of a forward and serves it for as long as possible. It returns
// why that ended, and whether it is over for good.
func (s *Session) attempt(ctx context.Context, st *State, open route.Opener) (over bool, err error) {
	if open == nil {
		return true, fmt.Errorf("target %s: %w", st.Target, target.ErrUnknown)
	}
	var ready route.Event // held back until there are listeners
	events := s.eventsOf(ctx, st.Forward)
	to, err := open(ctx, st.Forward, func(e route.Event) {
		if e.Kind == route.Ready && ready.Kind == "" {
			ready = e // told by open, before anything listens
			return
		}
		events(e)
	})
	if err != nil {
		return s.isOver(st.Forward, err), err
	}
	defer to.Close()
	return s.serve(ctx, st, to, ready)
}

// serve carries connections over a route until ctx ends or the target is gone for good.
// While its ports cannot be bound the route stays open, because a process must not be
// looked up by its number a second time.
func (s *Session) serve(ctx context.Context, st *State, to *route.Result, ready route.Event) (over bool, err error) {
	f := st.Forward
	ctx, gone := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { gone(to.Wait(ctx)) })
	defer watch.Wait()
	defer gone(nil)
	if f.All {
		if err := s.carryAll(ctx, st, to, ready); ctx.Err() == nil {
			gone(err) // also where the target itself would be found again: a process must not be
		}
		return true, s.endOf(ctx, f)
	}
	var again relisten
	for {
		bound, err := s.carryPorts(ctx, st, to, ready, &again)
		switch {
		case ctx.Err() != nil:
			return true, s.endOf(ctx, f)
		case f.Reverse && again.begun:
			if !bound {
				s.report(ctx, report{state: st, err: err})
			}
			again.rest(ctx)
			continue
		case !s.retries(f) || errors.Is(err, forward.ErrTwice) || errors.Is(err, target.ErrNoPlace):
			return true, err
		}
		s.report(ctx, report{state: st, err: err})
		s.pause(ctx)
	}
}

// carryPorts binds the forward's ports, and carries their connections for as long as they can be. It reports whether they were bound.
func (s *Session) carryPorts(ctx context.Context, st *State, to *route.Result, ready route.Event, again *relisten) (bound bool, err error) {
	f, events := st.Forward, s.eventsOf(ctx, st.Forward)
	listeners, err := s.bind(ctx, f, to)
	if err != nil {
		return false, err
	}
	defer forward.CloseAll(listeners)
	if !again.begun {
		events(ready)
	}
	again.succeeded()
	s.report(ctx, report{state: st, listeners: listeners})
	return true, s.carrier(f, to, events).Run(ctx, listeners)
}

// endOf returns why a forward's target is gone for good.
func (s *Session) endOf(ctx context.Context, f target.Forward) error {
	if s.retries(f) {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%s: %w", f, context.Cause(ctx))
}

// carrier returns what carries a forward's connections: from here to the target, or on the way back from
// there to here.
func (s *Session) carrier(f target.Forward, to *route.Result, events func(route.Event)) *forward.Forwarder {
	carrier := &forward.Forwarder{
		Name: f.String(), Dialer: to, Events: events, DialTimeout: s.Wait + dialTime,
		UDPIdle: s.UDPIdle, Drain: s.Drain, Now: s.Now,
	}
	if f.Reverse {
		carrier.Dialer, carrier.DialTimeout = forward.Here{}, dialTime
	}
	return carrier
}

// relisten is when a target that was listened at is listened at again: a listener there is lost with the
// tunnel or the pod, and both come back.
type relisten struct {
	begun bool // it has been listened at
	since time.Time
	pause backoff.Backoff
}

func (r *relisten) succeeded() { r.begun, r.since = true, time.Now() }

// rest pauses until the next attempt: for longer each time, unless the last one has been good for a while.
func (r *relisten) rest(ctx context.Context) {
	if time.Since(r.since) > relistenMax {
		r.pause.Reset()
	}
	backoff.Sleep(ctx, r.pause.Next(relistenMin, relistenMax), nil)
}

// bind binds the listeners of a forward whose route is open, and tells of them.
func (s *Session) bind(ctx context.Context, f target.Forward, to *route.Result) (listeners []*route.Listener, err error) {
	if listeners = s.Bound; listeners == nil {
		ports, err := f.Locals(to.Ports)
		switch {
		case err != nil:
			return nil, err
		case f.Reverse && to.Bind == nil:
			return nil, fmt.Errorf("%s cannot be listened at: %w", f, target.ErrUnsupported)
		case f.Reverse:
			listeners, err = forward.ListenBy(ctx, to.Bind, f.Addresses, ports)
		default:
			listeners, err = forward.Listen(ctx, f.Addresses, ports)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, l := range listeners {
		e := route.Event{Kind: route.Listening, Listen: l.Local, Remote: l.Remote}
		if to.PodPort != nil {
			e.PodPort, _ = to.PodPort(l.Remote) // only for show: 0 if the pod is gone already
		}
		s.eventsOf(ctx, f)(e)
	}
	return listeners, nil
}

// pause rests until the next attempt. Random times spread the attempts of many forwards.
func (s *Session) pause(ctx context.Context) {
	rest := max(retry, time.Duration(s.lives.Load())*retrySpace)
	backoff.Sleep(ctx, rest*3/4+rand.N(rest/2), nil)
}
