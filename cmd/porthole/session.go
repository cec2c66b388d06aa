package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/netns"
)

// drain is how long live connections may go on after Ctrl-C.
const drain = 2 * time.Second

// session is a target that can be reached, with its listeners bound.
type session struct {
	name      string
	route     *netns.Namespace
	listeners []*forward.Listener
	tell      *teller
}

// run is `porthole forward`, parsed.
func (f *forwarding) run(cmd *cobra.Command) error {
	ns, err := container.Open(f.target)
	if err != nil {
		return err
	}
	defer ns.Close()
	listeners, err := forward.Listen(cmd.Context(), f.addresses, f.ports)
	if errors.Is(err, forward.ErrTwice) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	tell := f.teller(cmd)
	defer tell.close()
	s := &session{f.target.String(), ns, listeners, tell}
	remove, err := s.announce(f.readyFile)
	if err != nil {
		forward.CloseAll(listeners)
		return err
	}
	defer remove()
	if f.command != nil {
		return s.serveCommand(cmd.Context(), f.command)
	}
	return s.serve(cmd.Context())
}

// announce tells that the session is ready, on paper too if a file is named.
func (s *session) announce(file string) (remove func(), err error) {
	for _, l := range s.listeners {
		s.tell.event(forward.Event{Kind: forward.Listening, Target: s.name, Listen: l.Local, Remote: l.Remote})
	}
	s.tell.event(forward.Event{Kind: forward.Ready, Target: s.name})
	if file == "" {
		return func() {}, nil
	}
	return writeReady(file, s.listeners)
}

// serve carries connections until ctx ends, which is no error, or the target is
// gone for good, which is one.
func (s *session) serve(ctx context.Context) error {
	inner, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { stop(s.route.Wait(inner)) })
	defer watch.Wait()
	defer stop(nil)

	carrier := forward.Session{Name: s.name, Dialer: s.route, Events: s.tell.event, Drain: drain}
	if err := carrier.Run(inner, s.listeners); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.name, context.Cause(inner))
}

// serveCommand serves for as long as a command runs. Signals are the command's
// then, and so is the exit status, unless the target is gone first.
func (s *session) serveCommand(ctx context.Context, argv []string) error {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() {
		served <- s.serve(ctx)
		stop()
	}()
	ended := runCommand(ctx, argv, s.environment())
	stop()
	if err := <-served; err != nil {
		return err
	}
	return ended
}
