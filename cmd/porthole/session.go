package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/forward"
)

// drain is how long live connections may go on after Ctrl-C.
const drain = 2 * time.Second

// session is a target that can be reached, with its listeners bound.
type session struct {
	name      string
	variable  string // the name that a file gives it, for variables; or ""
	route     route
	listeners []*forward.Listener
	tell      *teller
	wait      time.Duration // how long a connection may wait for the route
}

// dialTime is what a connection may take to come up beside waiting.
const dialTime = 10 * time.Second

// run is `porthole forward`, parsed.
func (f *forwarding) run(cmd *cobra.Command) error {
	tell := f.teller(cmd)
	defer tell.close()
	o := newOpener(f, tell)
	defer o.close()
	if f.file != "" {
		return newGroup(f, o).run(cmd.Context())
	}
	s, err := o.session(cmd.Context(), f.specs[0])
	if err != nil {
		return interrupted(cmd.Context(), err)
	}
	defer s.close()
	remove, err := writeReady(f.readyFile, s.listeners)
	if err != nil {
		return err
	}
	defer remove()
	if f.command == nil {
		return s.serve(cmd.Context())
	}
	return whileCommand(cmd.Context(), f.command, environment(s.listeners), s.serve)
}

// interrupted makes no error of what only Ctrl-C has ended.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// session opens the route to a target and binds its listeners.
func (o *opener) session(ctx context.Context, sp spec) (*session, error) {
	to, err := o.open(ctx, sp)
	if err != nil {
		return nil, err
	}
	listeners, err := forward.Listen(ctx, sp.Addresses, to.ports)
	if err != nil {
		_ = to.route.Close()
	}
	if errors.Is(err, forward.ErrTwice) {
		err = usageError{err}
	}
	if err != nil {
		return nil, err
	}
	s := &session{name: sp.name, variable: sp.Name, route: to.route, listeners: listeners, tell: o.tell, wait: o.options.wait}
	for _, l := range listeners {
		e := forward.Event{Kind: forward.Listening, Target: s.name, Listen: l.Local, Remote: l.Remote}
		if to.podPort != nil {
			e.PodPort, _ = to.podPort(l.Remote) // only for show: 0 if the pod is gone already
		}
		s.tell.event(e)
	}
	s.tell.event(to.ready)
	return s, nil
}

func (s *session) close() {
	forward.CloseAll(s.listeners)
	_ = s.route.Close()
}

// serve carries connections until ctx ends, which is no error, or the target is
// gone for good, which is one.
func (s *session) serve(ctx context.Context) error {
	inner, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { stop(s.route.Wait(inner)) })
	defer watch.Wait()
	defer stop(nil)

	carrier := forward.Session{Name: s.name, Dialer: s.route, Events: s.tell.event, Drain: drain, DialTimeout: s.wait + dialTime}
	if err := carrier.Run(inner, s.listeners); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.name, context.Cause(inner))
}

// whileCommand serves for as long as a command runs. Signals are the command's
// then, and so is the exit status, unless serve fails first.
func whileCommand(ctx context.Context, argv, environment []string, serve func(context.Context) error) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx)
		stop()
	}()
	ended := runCommand(ctx, argv, environment)
	stop()
	if err := <-served; err != nil {
		return err
	}
	return ended
}
