// Package session is what one `porthole forward` is while it lives: it opens routes, binds listeners, keeps each
// forward alive and tells what happens. It must not know any kind of target, nor who reads its events.
package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Session makes the ports of forwards reachable at local addresses. Set the fields,
// then call Run once.
type Session struct {
	// Forwards are what is served, each with a life of its own; there is at least one.
	Forwards []target.Forward
	// Openers open the routes to targets, by the targets' schemes.
	Openers map[target.Scheme]route.Opener
	// Bound are the listeners of the only forward, where the caller has bound them
	// already; nil has them bound once the target can be reached.
	Bound []*forward.Listener
	// File is where the forwards were read from, for messages; "" for nowhere.
	File string
	// Retry keeps trying what cannot be reached, and tells of it. Without it the first
	// failure ends the session.
	Retry bool
	// Events is called for everything that happens, from many goroutines at once. A
	// connection waits until the call about it returns.
	Events func(route.Event)
	// Ready is called once every forward has been opened, or with ReadyAny once one has,
	// and after that whenever one is opened or lost; its error ends the session. If it is
	// set, a forward that can never be opened ends the session, too, as Ready would never
	// be called. It may be nil.
	Ready    func([]State) error
	ReadyAny bool
	// Wait is how long a connection may wait while the route is broken.
	Wait time.Duration
	// UDPIdle, Drain and Now are those of forward.Forwarder.
	UDPIdle time.Duration
	Drain   time.Duration
	Now     <-chan struct{}

	states  []State // used by Run alone
	reports chan report
}

// State is the current state of a forward.
type State struct {
	target.Forward
	Listeners []*forward.Listener // while it is open, or else nil
	Err       error               // why it is not open; nil before the first attempt is over
	Over      bool                // it is not tried again

	opened bool   // it has been open
	told   string // the failure that was told last; "" while it is open
}

// Errors are the errors of several forwards, each prefixed by the forward's place in the file.
type Errors []error

func (e Errors) Error() string { return errors.Join(e...).Error() }

func (e Errors) Unwrap() []error { return e }

// holdBack is how long failures are held back while no forward is open: if all forwards
// fail, the failures become the error that ends the session, and are not told twice.
const holdBack = time.Second

// Run serves the forwards until ctx ends, which is no error. It fails when none could
// be opened in the first place, when none is left, or when what Ready waits for can
// never be. Errors: those of the routes and of forward.Listen, with Retry as Errors.
func (s *Session) Run(ctx context.Context) error {
	life, stop := context.WithCancel(ctx)
	var lives sync.WaitGroup
	defer lives.Wait()
	defer stop()
	s.reports = make(chan report)
	for i, f := range s.Forwards {
		s.states = append(s.states, State{Forward: f})
		lives.Go(func() { s.live(life, i, f) })
	}
	return s.follow(ctx)
}

// follow hears what becomes of the forwards until ctx ends or the session fails.
func (s *Session) follow(ctx context.Context) error {
	held := time.After(holdBack)
	patient, ready := true, false
	for {
		select {
		case r := <-s.reports:
			s.states[r.forward].note(r)
		case <-held:
			patient = false
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return nil
		}
		if ready && s.Retry {
			s.tellFailures()
		}
		if err := s.lost(ready); err != nil {
			return err
		}
		open := s.count(func(st *State) bool { return st.opened })
		if !patient || open > 0 {
			s.tellFailures()
		}
		ready = ready || open == len(s.states) || open > 0 && s.ReadyAny
		if !ready || s.Ready == nil {
			continue
		}
		// A forward that is opened again may have another local port.
		if err := s.Ready(slices.Clone(s.states)); err != nil {
			return err
		}
	}
}

func (st *State) note(r report) {
	st.Listeners, st.Err, st.Over = r.listeners, r.err, r.over
	if r.err == nil {
		st.opened, st.told = true, ""
	}
}

func (s *Session) count(is func(*State) bool) (n int) {
	for i := range s.states {
		if is(&s.states[i]) {
			n++
		}
	}
	return n
}

// lost returns why the session cannot go on, or nil: no forward could be opened, none is
// left, or what Ready waits for can never happen.
func (s *Session) lost(ready bool) error {
	if !s.Retry {
		failed := slices.IndexFunc(s.states, func(st State) bool { return st.Err != nil })
		if failed < 0 {
			return nil
		}
		return s.states[failed].Err
	}
	over := s.count(func(st *State) bool { return st.Over })
	failed := s.count(func(st *State) bool { return st.Err != nil && !st.opened })
	all, waits := len(s.states), !ready && !s.ReadyAny && s.Ready != nil
	if over < all && failed < all && (over == 0 || !waits) {
		return nil
	}
	var errs Errors
	for i := range s.states {
		st := &s.states[i]
		if st.Err != nil && (st.Over || failed == all) && st.told != st.Err.Error() {
			errs = append(errs, fmt.Errorf("%s: %w", s.place(st), st.Err))
		}
	}
	switch {
	case len(errs) > 0:
		return errs
	case failed == all:
		return fmt.Errorf("%s: none of its forwards could be opened", s.File)
	case over == all:
		return fmt.Errorf("%s: none of its forwards is left", s.File)
	}
	return fmt.Errorf("%s: not all of its forwards can be opened any more", s.File)
}

// tellFailures tells of each failure once.
func (s *Session) tellFailures() {
	for i := range s.states {
		st := &s.states[i]
		if st.Err == nil || st.told == st.Err.Error() {
			continue
		}
		st.told = st.Err.Error()
		kind := route.Waiting
		if st.Over {
			kind = route.Ended
		}
		s.Events(route.Event{Kind: kind, Target: s.place(st), Err: st.Err})
	}
}

// place returns a forward's place in the file, and its name.
func (s *Session) place(st *State) string {
	return fmt.Sprintf("%s:%d: %s", s.File, st.Line, st.Forward)
}
