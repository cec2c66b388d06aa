package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
)

// drain is how long connections that are in use may take to finish after Ctrl-C.
const drain = 2 * time.Second

// run runs `porthole forward` once its command line is parsed.
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
	p := f.printer(cmd)
	if f.command == nil {
		p.unread = stop // a command keeps running when nobody reads
	}
	served := make(chan error, 1)
	go func() {
		err := f.serve(ctx, p, ready, end)
		p.close()
		served <- err
	}()
	select {
	case err := <-served:
		return err
	case <-end.late:
		return nil
	}
}

// serve runs the session until ctx ends or the command does. Once the command runs, it
// alone handles signals, and its exit status counts, unless the session fails first.
func (f *forwarding) serve(ctx context.Context, p *printer, ready *readyFile, end *ending) error {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	detach := context.AfterFunc(ctx, func() { ready.remove(); stop() })
	clusters := f.clusters()
	defer clusters.Close()
	s := &session.Session{
		Forwards: f.forwards, File: f.file, Retry: f.file != "", ReadyAny: f.readyWhen == readyAny,
		Openers: map[target.Scheme]route.Opener{
			target.PID: container.Open, target.NetNS: container.Open, target.Kubernetes: openKubernetes(clusters),
		},
		Events: p.event, Wait: f.wait, Drain: drain, Now: end.now,
	}
	var ended chan error // receives the exit status of the command once that runs
	if f.readyFile != "" || f.command != nil {
		s.Ready = func(all []session.State) error {
			if err := ready.write(all); err != nil {
				stop()
				return err
			}
			if f.command != nil && ended == nil && detach() {
				ended = make(chan error, 1)
				go func() { ended <- f.runCommand(life, stop, end, all) }()
			}
			return nil
		}
	}
	err := s.Run(life)
	stop()
	if ended != nil {
		if status := <-ended; err == nil {
			return status
		}
	}
	if errors.Is(err, forward.ErrTwice) {
		return usageError{err}
	}
	return f.advise(err)
}

// runCommand runs the command with the addresses of the forwards that are open, and ends
// the session when it has ended.
func (f *forwarding) runCommand(ctx context.Context, stop func(), end *ending, all []session.State) error {
	resume := end.pause()
	ended := runCommand(ctx, f.command, environment(all))
	resume()
	stop()
	return ended
}
