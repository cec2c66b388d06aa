package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/leftovers"
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
	left := &leftovers.List{Dir: leftoversDir()}
	defer left.Close() // after the files themselves are gone
	ready.noted = left
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := func() { ready.remove(); cancel() } // the file does not wait for connections to finish
	defer stop()
	detach := context.AfterFunc(ctx, stop)
	openers, expanders, closeAll := f.openers()
	defer closeAll()
	s := &session.Session{
		Forwards: f.forwards, File: f.file, Retry: f.file != "", ReadyAny: f.readyWhen == readyAny,
		Openers: openers, Expanders: expanders, Events: noting(left, p.event), Wait: f.wait, UDPIdle: f.udpIdle, Drain: drain, Now: end.now,
	}
	var ended <-chan error // receives the exit status of the command once that runs
	if f.readyFile != "" || f.command != nil {
		s.Ready = func(all []session.State) error {
			if err := ready.write(all); err != nil {
				stop()
				return err
			}
			if f.command != nil && ended == nil {
				ended = f.startCommand(life, environment(all), end, detach, stop)
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
	if errors.Is(err, forward.ErrTwice) || errors.Is(err, kube.ErrOnePod) {
		return usageError{f.reverseForms(err)}
	}
	return f.advise(f.reverseForms(err))
}

// startCommand starts the command, detaches the session from signals, and stops it when
// the command has ended.
func (f *forwarding) startCommand(ctx context.Context, environment []string, end *ending, detach func() bool, stop func()) <-chan error {
	ended := make(chan error, 1)
	resume := end.pause()
	if !detach() { // a signal was quicker
		resume()
		ended <- nil
		return ended
	}
	go func() {
		err := runCommand(ctx, f.command, environment)
		resume()
		stop()
		ended <- err
	}()
	return ended
}

// noting notes what an event says that `porthole clean` has to know if this process is killed. What
// cannot be noted is not worth an error.
func noting(left *leftovers.List, events func(route.Event)) func(route.Event) {
	return func(e route.Event) {
		switch {
		case e.Kind == route.Listening && e.Listen.Path != "":
			_ = left.NoteFile(e.Listen.Path)
		case e.Kind == route.Carried && e.Via == target.ViaRelay:
			_ = left.NotePod(e.Pod)
		}
		events(e)
	}
}
