// Package session is what one `porthole forward` is while it lives: it opens routes, binds listeners, keeps each
// forward alive and tells what happens. It must not know any kind of target, nor who reads its events.
package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
	// Expanders find the members of forwards with Each, by the targets' schemes.
	Expanders map[target.Scheme]route.Expander
	// Bound are the listeners of the only forward, where the caller has bound them
	// already; nil has them bound once the target can be reached.
	Bound []*route.Listener
	// File is where the forwards were read from, for messages; "" for nowhere.
	File string
	// Retry keeps trying what cannot be reached, and tells of it. Without it the first
	// failure ends the session, unless it is that of one of several members.
	Retry bool
	// Events is called for everything that happens, from many goroutines at once. A
	// connection waits until the call about it returns.
	Events func(route.Event)
	// Ready is called once every forward has been opened (with Each: all members that could
	// be reached at first), or with ReadyAny once one has, and after that whenever one is
	// opened or lost; its error ends the session. If it is
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

	states  []*State // in the order of the forwards, and of places; used by Run alone
	reports chan report
	begun   bool         // a forward has been open; used by Run alone
	lives   atomic.Int32 // of forwards, and of members
}

// State is the current state of a forward, which with Each is one member's.
type State struct {
	target.Forward
	Listeners []*route.Listener // while it is open, or else nil
	Err       error             // why it is not open; nil before the first attempt is over
	Over      bool              // it is not tried again

	expanded bool   // its members have states of their own, and this one stands for none
	later    bool   // a member that could not be reached at first, and is not waited for
	opened   bool   // it has been open
	told     string // the failure that was told last; "" while it is open
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
	for _, f := range s.Forwards {
		st := &State{Forward: f}
		s.states = append(s.states, st)
		if f.Each != "" {
			lives.Go(func() { s.liveEach(life, st) })
		} else {
			lives.Go(func() { s.live(life, st, s.Openers[f.Target.Scheme]) })
		}
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
			s.note(r)
		case <-held:
			patient = false
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return nil
		}
		if ready {
			s.tellFailures()
		}
		if err := s.lost(ready); err != nil {
			return err
		}
		if !patient || s.begun {
			s.tellFailures()
		}
		ready = ready || s.allOpened()
		if !ready || s.Ready == nil {
			continue
		}
		// A forward that is opened again may have another local port.
		if err := s.Ready(s.current()); err != nil {
			return err
		}
	}
}

// allOpened reports whether everything that Ready waits for has been opened.
func (s *Session) allOpened() bool {
	return s.begun && (s.ReadyAny || s.count(func(st *State) bool { return !st.opened && !st.later }) == 0)
}

// note enters a report into the states.
func (s *Session) note(r report) {
	st := r.state
	st.Listeners, st.Err, st.Over = r.listeners, r.err, r.over
	if r.err == nil && !r.expanded {
		st.opened, st.told, s.begun = true, "", true
	}
	if !r.expanded {
		return
	}
	st.expanded = true
	for _, one := range r.left {
		forward.CloseAll(one.Listeners) // as its life does, but before that is told
		s.Events(route.Event{Kind: route.Ended, Target: one.Whole(), Member: one.Member, Err: fmt.Errorf("no longer part of %s", one.Whole())})
	}
	s.states = slices.DeleteFunc(s.states, func(st *State) bool { return slices.Contains(r.left, st) })
	at := slices.Index(s.states, st) + 1
	for _, one := range r.joined {
		end := at
		for end < len(s.states) && s.states[end].Member != "" && s.states[end].Place < one.Place {
			end++
		}
		s.states = slices.Insert(s.states, end, one)
	}
}

// current returns a copy of all states that stand for something.
func (s *Session) current() (all []State) {
	for _, st := range s.states {
		if !st.expanded {
			all = append(all, *st)
		}
	}
	return all
}

func (s *Session) count(is func(*State) bool) (n int) {
	for _, st := range s.states {
		if !st.expanded && is(st) {
			n++
		}
	}
	return n
}

// lost returns why the session cannot go on, or nil: no forward could be opened, none is
// left, or what Ready waits for can never happen.
func (s *Session) lost(ready bool) error {
	if i := slices.IndexFunc(s.states, func(st *State) bool { return st.Err != nil && !s.goesOn(st) }); i >= 0 {
		return s.states[i].Err
	}
	all := s.count(func(*State) bool { return true })
	over := s.count(func(st *State) bool { return st.Over })
	failed := s.count(func(st *State) bool { return st.Err != nil && !st.opened })
	none := failed == all && !s.begun
	waits := !ready && !s.ReadyAny && s.Ready != nil
	inVain := waits && s.count(func(st *State) bool { return st.Over && !st.later }) > 0
	if all == 0 || over < all && !none && !inVain {
		return nil
	}
	var errs Errors
	for _, st := range s.states {
		if st.Err != nil && (st.Over || none) && st.told != st.Err.Error() {
			errs = append(errs, fmt.Errorf("%s: %w", s.place(st), st.Err))
		}
	}
	file := cmp.Or(s.File, s.Forwards[0].String())
	switch {
	case len(errs) > 0:
		return errs
	case none:
		return fmt.Errorf("%s: none of its forwards could be opened", file)
	case over == all:
		return fmt.Errorf("%s: none of its forwards is left", file)
	}
	return fmt.Errorf("%s: not all of its forwards can be opened any more", file)
}

// goesOn reports whether the session outlives a forward's failure: what was once listened on at a target is
// listened on again.
func (s *Session) goesOn(st *State) bool {
	return s.retries(st.Forward) || st.Reverse && st.opened && !st.Over
}

// tellFailures tells of each failure that does not end the session, once.
func (s *Session) tellFailures() {
	for _, st := range s.states {
		if st.Err == nil || st.told == st.Err.Error() || !s.goesOn(st) {
			continue
		}
		st.told = st.Err.Error()
		kind := route.Waiting
		if st.Over {
			kind = route.Ended
		}
		s.Events(route.Event{Kind: kind, Target: s.place(st), Member: st.Member, Reverse: st.Reverse, Err: st.Err})
	}
}

// place returns a forward's place in the file, if there is one, and its name.
func (s *Session) place(st *State) string {
	if s.File == "" {
		return st.String()
	}
	return fmt.Sprintf("%s:%d: %s", s.File, st.Line, st.Forward)
}
