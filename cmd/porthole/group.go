package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

const (
	// retry is how long a forward rests that could not be opened.
	retry = 5 * time.Second
	// retrySpace is what many of them that rest keep between two attempts.
	retrySpace = 100 * time.Millisecond
	// holdBack is how long failures are kept while no forward is open: if all
	// fail, they are the error that ends the session, and not said twice.
	holdBack = time.Second
)

// group is the forwards of a file. Each has its own life: it serves as soon as it
// can, and what cannot be reached is said, and tried again until it can. Only run
// uses its fields.
type group struct {
	options *forwarding
	opener  *opener

	members []*member
	reports chan report
	ready   bool // what the ready file and a command wait for has come
}

// member is one forward of a group, as its last report has it.
type member struct {
	spec
	session *session // while it is open
	err     error    // why it is not; nil before the first attempt is over
	over    bool     // for good
	opened  bool     // it has been open
	told    string   // the failure that was told last, "" while it is open
}

// report is what becomes of a forward: it is open, or err says why not.
type report struct {
	member  *member
	session *session
	err     error
	over    bool
}

func newGroup(f *forwarding, o *opener) *group {
	g := &group{options: f, opener: o, reports: make(chan report)}
	for _, sp := range f.specs {
		g.members = append(g.members, &member{spec: sp})
	}
	return g
}

// run serves all of them until ctx ends or the command does. It fails if none
// could be opened in the first place, or none is left.
func (g *group) run(ctx context.Context) error {
	// A command is told of signals, which end ctx, and has its ports until it ends.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var lives sync.WaitGroup
	defer lives.Wait()
	defer stop()
	defer g.opener.ready.remove()
	for _, m := range g.members {
		lives.Go(func() { g.live(life, m) })
	}
	if err := g.gather(ctx); err != nil || ctx.Err() != nil {
		return interrupted(ctx, err)
	}
	if g.options.command == nil {
		return g.follow(ctx)
	}
	return g.opener.whileCommand(ctx, g.environment(), g.follow)
}

// gather hears reports until the group is ready.
func (g *group) gather(ctx context.Context) error {
	held := time.After(holdBack)
	patient := true
	for {
		select {
		case r := <-g.reports:
			r.member.note(r)
		case <-held:
			patient = false
		case <-ctx.Done():
			return nil
		}
		if err := g.lost(); err != nil {
			return err
		}
		if !patient || g.count(func(m *member) bool { return m.opened }) > 0 {
			g.tell()
		}
		if g.isReady() {
			g.ready = true
			return g.opener.ready.write(g.listeners())
		}
	}
}

// follow hears reports until ctx ends, or no forward is left.
func (g *group) follow(ctx context.Context) error {
	for {
		select {
		case r := <-g.reports:
			r.member.note(r)
		case <-ctx.Done():
			return nil
		}
		g.tell()
		if err := g.lost(); err != nil {
			return err
		}
		// A forward that is opened again may have another local port.
		if err := g.opener.ready.write(g.listeners()); err != nil {
			return err
		}
	}
}

func (m *member) note(r report) {
	m.session, m.err, m.over = r.session, r.err, r.over
	if r.session != nil {
		m.opened, m.told = true, ""
	}
}

func (g *group) count(is func(*member) bool) (n int) {
	for _, m := range g.members {
		if is(m) {
			n++
		}
	}
	return n
}

// isReady says whether everything is open, or has been, that --ready-when names.
func (g *group) isReady() bool {
	open := g.count(func(m *member) bool { return m.opened })
	return open == len(g.members) || open > 0 && g.options.readyWhen == readyAny
}

// lost says why it makes no sense to go on, or nil: nothing could be opened, nothing
// is left, or what somebody waits for will never be ready.
func (g *group) lost() error {
	over := g.count(func(m *member) bool { return m.over })
	failed := g.count(func(m *member) bool { return m.err != nil && !m.opened })
	waits := !g.ready && g.options.readyWhen == readyAll && g.options.waitsForReady()
	if over < len(g.members) && failed < len(g.members) && (over == 0 || !waits) {
		return nil
	}
	var all []error
	for _, m := range g.members {
		if m.err != nil && (m.over || failed == len(g.members)) && m.told != m.err.Error() {
			all = append(all, fmt.Errorf("%s: %w", g.place(m), m.err))
		}
	}
	switch {
	case len(all) > 0:
		return severalErrors(all)
	case failed == len(g.members):
		return fmt.Errorf("%s: none of its forwards could be opened", g.options.file)
	case over == len(g.members):
		return fmt.Errorf("%s: none of its forwards is left", g.options.file)
	}
	return fmt.Errorf("%s: not all of its forwards can be opened any more", g.options.file)
}

// tell tells of the failures that are news.
func (g *group) tell() {
	for _, m := range g.members {
		if m.err == nil || m.told == m.err.Error() {
			continue
		}
		m.told = m.err.Error()
		kind := forward.Waiting
		if m.over {
			kind = forward.Ended
		}
		g.opener.tell.event(forward.Event{Kind: kind, Target: g.place(m), Err: m.err})
	}
}

// listeners are those of all forwards that are open, in the file's order.
func (g *group) listeners() (all []*forward.Listener) {
	for _, m := range g.members {
		if m.session != nil {
			all = append(all, m.session.listeners...)
		}
	}
	return all
}

// environment is what a command is told: of each forward that is open by now.
func (g *group) environment() []string {
	env := environment(g.listeners())
	for _, m := range g.members {
		if m.session != nil && m.Name != "" {
			env = append(env, variables("_"+m.Name, m.session.listeners[0])...)
		}
	}
	return env
}

// place says where in the file a forward stands.
func (g *group) place(m *member) string {
	return fmt.Sprintf("%s:%d: %s", g.options.file, m.Line, m.name)
}

// live is one forward's life, until ctx ends or it is over for good.
func (g *group) live(ctx context.Context, m *member) {
	for {
		to, err := g.opener.open(ctx, m.spec)
		if err == nil {
			err = g.hold(ctx, m, to)
			_ = to.route.Close()
		}
		over := final(m.Target, err)
		g.report(ctx, report{member: m, err: err, over: over})
		if over || ctx.Err() != nil {
			return
		}
		g.pause(ctx)
	}
}

// hold serves a target until ctx ends, or the target is gone, and says why. While
// its ports cannot be bound it stays open: a process is not looked up by its number again.
func (g *group) hold(ctx context.Context, m *member, to *opened) error {
	ctx, stop := alive(ctx, to.route)
	defer stop()
	for {
		s, err := g.opener.bind(ctx, m.spec, to)
		if err == nil {
			g.report(ctx, report{member: m, session: s})
			err = s.carry(ctx)
			forward.CloseAll(s.listeners)
		}
		var usage usageError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &usage):
			return err
		}
		g.report(ctx, report{member: m, err: err})
		g.pause(ctx)
	}
}

func (g *group) report(ctx context.Context, r report) {
	select {
	case g.reports <- r:
	case <-ctx.Done():
	}
}

// pause rests until it is time for the next attempt. Those of many forwards come
// spread out.
func (g *group) pause(ctx context.Context) {
	rest := max(retry, time.Duration(len(g.members))*retrySpace)
	select {
	case <-time.After(rest*3/4 + rand.N(rest/2)):
	case <-ctx.Done():
	}
}

// final says whether a failure is for good. A process' number is looked up once:
// later it may be another process' that nobody asked for.
func final(t target.Target, err error) bool {
	var usage usageError
	return t.Scheme == target.PID || errors.As(err, &usage) ||
		errors.Is(err, netns.ErrPermission) || errors.Is(err, netns.ErrUnsupported)
}
