package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"
)

// overdue is how long shutting down may take, beyond the time that connections get to
// finish. Whatever hangs for longer, such as a credentials plugin, is left behind.
const overdue = time.Second

// ending bounds the time that shutting down may take. A second signal closes now.
type ending struct {
	now  chan struct{} // closed when connections are no longer waited for
	late chan struct{} // closed when shutting down has taken too long

	signals chan os.Signal
	command atomic.Bool   // a command runs, which handles signals itself and may take its time
	resumed chan struct{} // receives once the command has ended; has room for one
	done    chan struct{}
	work    sync.WaitGroup
}

// newEnding starts to wait for the end of ctx, which the first signal causes; close stops it.
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
		case <-e.signals: // the first one arrives here, too
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

// pause suspends the limits, and ignores signals, until resume is called: a command runs.
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
