package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"porthole.dev/porthole/internal/forward"
)

// group is the forwards of a file. Each has its own life: what cannot be reached
// is said, and tried again until it can, while the others go on.
type group struct {
	options *forwarding
	opener  *opener

	started sync.WaitGroup // until each was tried once
	mu      sync.Mutex
	open    []*session // that were open when all had been tried
	failed  []failure
}

// failure is a forward that could not be opened.
type failure struct {
	place string // FILE:LINE: NAME
	err   error
}

func newGroup(f *forwarding, o *opener) *group { return &group{options: f, opener: o} }

// run serves all of them until ctx ends. It fails only if none could be opened
// in the first place.
func (g *group) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var lives sync.WaitGroup
	defer lives.Wait()
	defer stop()
	serve := make(chan struct{}) // closed when the first attempts are over
	for _, s := range g.options.specs {
		g.started.Add(1)
		lives.Go(func() { g.live(ctx, s, serve) })
	}
	g.started.Wait()
	if len(g.open) == 0 {
		return interrupted(ctx, g.failures())
	}
	for _, f := range g.failed {
		g.opener.tell.event(forward.Event{Kind: forward.Waiting, Target: f.place, Err: f.err})
	}
	var listeners []*forward.Listener
	for _, s := range g.open {
		listeners = append(listeners, s.listeners...)
	}
	remove, err := writeReady(g.options.readyFile, listeners)
	if err != nil {
		return err
	}
	defer remove()
	close(serve)
	return g.wait(ctx, listeners)
}

// wait waits for Ctrl-C or the command's end.
func (g *group) wait(ctx context.Context, listeners []*forward.Listener) error {
	if g.options.command == nil {
		<-ctx.Done()
		return nil
	}
	env := environment(listeners)
	for _, s := range g.open {
		if s.variable != "" {
			env = append(env, variables("_"+s.variable, s.listeners[0])...)
		}
	}
	return runCommand(context.WithoutCancel(ctx), g.options.command, env)
}

// live is one forward's life.
func (g *group) live(ctx context.Context, sp spec, serve <-chan struct{}) {
	s, err := g.opener.session(ctx, sp)
	g.note(sp, s, err)
	g.started.Done()
	select {
	case <-serve:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		if err == nil {
			err = s.serve(ctx)
			s.close()
			s = nil
			g.tellAgain(ctx, sp, err)
		}
		pause(ctx)
		s, err = g.opener.session(ctx, sp)
	}
	if s != nil {
		s.close()
	}
}

// retry is how long a forward rests that could not be opened.
const retry = 5 * time.Second

func pause(ctx context.Context) {
	select {
	case <-time.After(retry):
	case <-ctx.Done():
	}
}

func (g *group) note(sp spec, s *session, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.failed = append(g.failed, failure{g.place(sp), err})
		return
	}
	g.open = append(g.open, s)
}

func (g *group) tellAgain(ctx context.Context, sp spec, err error) {
	if err != nil && ctx.Err() == nil {
		g.opener.tell.event(forward.Event{Kind: forward.Reconnecting, Target: g.place(sp), Err: err})
	}
}

// place says where in the file a forward stands.
func (g *group) place(sp spec) string {
	return fmt.Sprintf("%s:%d: %s", g.options.file, sp.Line, sp.name)
}

// failures are all that could not be opened, as one error.
func (g *group) failures() error {
	var all []error
	for _, f := range g.failed {
		all = append(all, fmt.Errorf("%s: %w", f.place, f.err))
	}
	return errors.Join(all...)
}
