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
	route     route
	listeners []*forward.Listener
	tell      *teller
	wait      time.Duration   // how long a connection may wait for the route
	now       <-chan struct{} // closed when nothing is waited for any more; nil is never
}

// dialTime is what a connection may take to come up beside waiting.
const dialTime = 10 * time.Second

// run is `porthole forward`, parsed.
func (f *forwarding) run(cmd *cobra.Command) error {
	ready, err := newReadyFile(f.readyFile)
	if err != nil {
		return err
	}
	defer ready.remove()
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	end := newEnding(ctx)
	defer end.close()
	o := newOpener(f, f.teller(cmd))
	o.ready, o.ending = ready, end
	if f.command == nil {
		o.tell.unread = stop // a command goes on
	}
	served := make(chan error, 1)
	go func() {
		err := o.serve(ctx)
		o.close()
		o.tell.close()
		served <- err
	}()
	select {
	case err := <-served:
		return err
	case <-end.late:
		return nil
	}
}

// serve serves all targets until ctx ends or the command does.
func (o *opener) serve(ctx context.Context) error {
	if o.options.file != "" {
		return newGroup(o.options, o).run(ctx)
	}
	return o.run(ctx, o.options.specs[0])
}

// run serves one target until ctx ends or the command does.
func (o *opener) run(ctx context.Context, sp spec) error {
	to, err := o.open(ctx, sp)
	if err != nil {
		return interrupted(ctx, o.options.advise(err))
	}
	defer to.route.Close()
	s, err := o.bind(ctx, sp, to)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer forward.CloseAll(s.listeners)
	if err := o.ready.write(s.listeners); err != nil {
		return err
	}
	if o.options.command == nil {
		return s.serve(ctx)
	}
	return o.whileCommand(ctx, environment(s.listeners), s.serve)
}

// interrupted makes no error of what only Ctrl-C has ended.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// bind binds the listeners of a target that is open.
func (o *opener) bind(ctx context.Context, sp spec, to *opened) (*session, error) {
	listeners, err := forward.Listen(ctx, sp.Addresses, to.ports)
	if errors.Is(err, forward.ErrTwice) {
		err = usageError{err}
	}
	if err != nil {
		return nil, err
	}
	s := &session{name: sp.name, route: to.route, listeners: listeners, tell: o.tell, wait: o.options.wait, now: o.ending.now}
	for _, l := range listeners {
		e := forward.Event{Kind: forward.Listening, Target: s.name, Listen: l.Local, Remote: l.Remote}
		if to.podPort != nil {
			e.PodPort, _ = to.podPort(l.Remote.Port) // only for show: 0 if the pod is gone already
		}
		s.tell.event(e)
	}
	s.tell.event(to.ready)
	return s, nil
}

// alive returns a context that ends with ctx, or when the target is gone for good,
// which is its cause then.
func alive(ctx context.Context, r route) (inner context.Context, stop func()) {
	inner, end := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { end(r.Wait(inner)) })
	return inner, func() { end(nil); watch.Wait() }
}

// serve carries connections until ctx ends, which is no error, or the target is
// gone for good, which is one.
func (s *session) serve(ctx context.Context) error {
	inner, stop := alive(ctx, s.route)
	defer stop()
	if err := s.carry(inner); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.name, context.Cause(inner))
}

// carry carries connections until ctx ends.
func (s *session) carry(ctx context.Context) error {
	carrier := forward.Session{
		Name: s.name, Dialer: s.route, Events: s.tell.event,
		DialTimeout: s.wait + dialTime, Drain: drain, Now: s.now,
	}
	return carrier.Run(ctx, s.listeners)
}

// whileCommand serves for as long as the command runs. Signals are the command's
// then, and so is the exit status, unless serve fails first.
func (o *opener) whileCommand(ctx context.Context, environment []string, serve func(context.Context) error) error {
	resume := o.ending.pause()
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx)
		stop()
	}()
	ended := runCommand(ctx, o.options.command, environment)
	resume()
	stop()
	if err := <-served; err != nil {
		return err
	}
	return ended
}
