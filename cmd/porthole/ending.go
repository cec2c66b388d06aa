package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"
)

// overdue is how long the end may take beside what connections get to finish. What
// hangs longer, such as a credentials plugin, is left behind.
const overdue = time.Second

// ending sees to it that a session that is to end does. A second signal closes now.
type ending struct {
	now  chan struct{} // closed when nothing is to be waited for any more
	late chan struct{} // closed when the end has taken too long

	signals chan os.Signal
	command atomic.Bool   // one runs: signals are its own, and the time
	resumed chan struct{} // has room for one: it runs no more
	done    chan struct{}
	work    sync.WaitGroup
}

// newEnding waits for the end of ctx, which the first signal brings; close ends it.
func newEnding(ctx context.Context) *ending {
	e := &ending{
		now: make(chan struct{}), late: make(chan struct{}), done: make(chan struct{}),
		signals: make(chan os.Signal, 8), resumed: make(chan struct{}, 1),
	}
	survivePipes()
	signal.Notify(e.signals, endSignals()...)
	e.work.Go(func() { e.listen(ctx) })
	return e
}

func (e *ending) listen(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-e.done:
		return
	}
	first, hurried := time.Now(), false
	var limit <-chan time.Time
	if !e.command.Load() {
		limit = time.After(drain + overdue)
	}
	for {
		select {
		case <-e.signals: // the first one, too
			if !hurried && !e.command.Load() && time.Since(first) > sameSignal {
				close(e.now)
				hurried, limit = true, time.After(overdue)
			}
		case <-e.resumed:
			limit = time.After(drain + overdue)
		case <-limit:
			close(e.late)
			return
		case <-e.done:
			return
		}
	}
}

// pause leaves signals, and the time, to a command until resume is called.
func (e *ending) pause() (resume func()) {
	e.command.Store(true)
	return func() {
		e.command.Store(false)
		e.resumed <- struct{}{}
	}
}

func (e *ending) close() {
	signal.Stop(e.signals)
	close(e.done)
	e.work.Wait()
}
