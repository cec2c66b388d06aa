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
)

// report says that a forward is open, or why it is not.
type report struct {
	forward   int // its index
	listeners []*forward.Listener
	err       error
	over      bool
}

func (s *Session) report(ctx context.Context, r report) {
	select {
	case s.reports <- r:
	case <-ctx.Done():
	}
}

// live is one forward's life, until ctx ends or it is over for good.
func (s *Session) live(ctx context.Context, index int, f target.Forward) {
	for {
		over, err := s.attempt(ctx, index, f)
		s.report(ctx, report{forward: index, err: err, over: over})
		if over || ctx.Err() != nil {
			return
		}
		s.pause(ctx)
	}
}

// attempt opens the route of a forward and serves it for as long as possible. It returns
// why that ended, and whether it is over for good.
func (s *Session) attempt(ctx context.Context, index int, f target.Forward) (over bool, err error) {
	open := s.Openers[f.Target.Scheme]
	if open == nil {
		return true, fmt.Errorf("target %s: %w", f.Target, target.ErrUnknown)
	}
	var ready route.Event // held back until there are listeners
	to, err := open(ctx, f, func(e route.Event) {
		e.Target = f.String()
		if e.Kind == route.Ready && ready.Kind == "" {
			ready = e // told by open, before anything listens
			return
		}
		s.Events(e)
	})
	if err != nil {
		var final *route.FinalError
		return !s.Retry || errors.As(err, &final), err
	}
	defer to.Close()
	return s.serve(ctx, index, f, to, ready)
}

// serve carries connections over a route until ctx ends or the target is gone for good.
// While its ports cannot be bound the route stays open, because a process must not be
// looked up by its number a second time.
func (s *Session) serve(ctx context.Context, index int, f target.Forward, to *route.Result, ready route.Event) (over bool, err error) {
	ctx, gone := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { gone(to.Wait(ctx)) })
	defer watch.Wait()
	defer gone(nil)
	for {
		listeners, err := s.bind(ctx, f, to)
		if err == nil {
			s.Events(ready)
			s.report(ctx, report{forward: index, listeners: listeners})
			carrier := forward.Forwarder{
				Name: f.String(), Dialer: to, Events: s.Events, DialTimeout: s.Wait + dialTime,
				UDPIdle: s.UDPIdle, Drain: s.Drain, Now: s.Now,
			}
			err = carrier.Run(ctx, listeners)
			forward.CloseAll(listeners)
		}
		switch {
		case ctx.Err() != nil && !s.Retry:
			return true, fmt.Errorf("%s: %w", f, context.Cause(ctx))
		case ctx.Err() != nil:
			return true, context.Cause(ctx)
		case !s.Retry || errors.Is(err, forward.ErrTwice):
			return true, err
		}
		s.report(ctx, report{forward: index, err: err})
		s.pause(ctx)
	}
}

// bind binds the listeners of a forward whose route is open, and tells of them.
func (s *Session) bind(ctx context.Context, f target.Forward, to *route.Result) (listeners []*forward.Listener, err error) {
	if listeners = s.Bound; listeners == nil {
		if listeners, err = forward.Listen(ctx, f.Addresses, to.Ports); err != nil {
			return nil, err
		}
	}
	for _, l := range listeners {
		e := route.Event{Kind: route.Listening, Target: f.String(), Listen: l.Local, Remote: l.Remote}
		if to.PodPort != nil {
			e.PodPort, _ = to.PodPort(l.Remote) // only for show: 0 if the pod is gone already
		}
		s.Events(e)
	}
	return listeners, nil
}

// pause rests until the next attempt. Random times spread the attempts of many forwards.
func (s *Session) pause(ctx context.Context) {
	rest := max(retry, time.Duration(len(s.Forwards))*retrySpace)
	backoff.Sleep(ctx, rest*3/4+rand.N(rest/2), nil)
}
