package session

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// errLeft ends the life of a member that its target no longer has.
var errLeft = errors.New("it is no longer part of its target")

// members are those of one forward with Each. Its Expander alone calls follow.
type members struct {
	session *Session
	whole   *State
	told    bool
	lives   map[string]*member
	places  map[int]<-chan struct{} // closed when the last life at a place is over
	work    sync.WaitGroup
}

// member is one whose life has begun.
type member struct {
	state *State
	end   context.CancelCauseFunc
}

// liveEach is the life of a forward with Each: its members', each of them a forward of its own.
func (s *Session) liveEach(ctx context.Context, whole *State) {
	m := &members{session: s, whole: whole, lives: map[string]*member{}, places: map[int]<-chan struct{}{}}
	defer m.work.Wait()
	expand := s.Expanders[whole.Target.Scheme]
	if expand == nil {
		s.report(ctx, report{state: whole, err: fmt.Errorf("%w: %s has none", target.ErrEach, whole.Target), over: true})
		return
	}
	for ctx.Err() == nil {
		err := expand(ctx, whole.Forward, s.eventsOf(ctx, whole.Forward), func(all []route.Member) { m.follow(ctx, all) })
		over := s.isOver(whole.Forward, err)
		s.report(ctx, report{state: whole, err: err, over: over})
		if over {
			return
		}
		s.pause(ctx)
	}
}

// follow begins the lives of new members, and ends those of members that have left.
func (m *members) follow(ctx context.Context, all []route.Member) {
	now := map[string]bool{}
	for _, one := range all {
		now[one.Name] = true
	}
	r := report{state: m.whole, expanded: true}
	for name, one := range m.lives {
		if now[name] {
			continue
		}
		one.end(errLeft)
		delete(m.lives, name)
		r.left = append(r.left, one.state)
	}
	var begin []func()
	for _, one := range all {
		if m.lives[one.Name] != nil {
			continue
		}
		life, end := context.WithCancelCause(ctx)
		state := &State{Forward: m.whole.For(one.Name, one.Place), later: m.told}
		m.lives[one.Name] = &member{state, end}
		r.joined = append(r.joined, state)
		begin = append(begin, func() { m.begin(life, state, one.Open) })
	}
	m.told = true
	m.session.report(ctx, r) // before any of them is open, so that all of these are waited for
	for _, f := range begin {
		f()
	}
}

// begin begins a member's life, once the connections of the one at its place before are over.
func (m *members) begin(ctx context.Context, state *State, open route.Opener) {
	before, over := m.places[state.Place], make(chan struct{})
	m.places[state.Place] = over
	m.work.Go(func() {
		defer close(over)
		if before != nil {
			<-before
		}
		m.session.live(ctx, state, open)
	})
}
