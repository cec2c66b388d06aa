package container

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/backoff"
)

// sharedEngine is an engine with all the routes that follow its containers, which share one stream of events.
type sharedEngine struct {
	engine
	life context.Context // of the Opener
	work sync.WaitGroup  // what reads events

	here atomic.Bool // a process of a container was seen on this machine

	mu      sync.Mutex
	helpers *helperEngine // nil before the first helper
	routes  map[*Route]bool
	end     context.CancelFunc // of reading events; nil while nobody follows
}

// The pauses between two attempts to read events.
const (
	minPause = 200 * time.Millisecond
	maxPause = 5 * time.Second
)

// follow lets a route know when it has to look for its container.
func (e *sharedEngine) follow(r *Route) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.routes[r] = true
	if e.end == nil {
		var ctx context.Context
		ctx, e.end = context.WithCancel(e.life)
		e.work.Go(func() { e.keepWatching(ctx) })
	}
}

// leave ends follow. The last one ends the stream of events.
func (e *sharedEngine) leave(r *Route) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.routes, r)
	if len(e.routes) == 0 && e.end != nil {
		e.end()
		e.end = nil
	}
}

// keepWatching reads events until ctx ends, in one stream after the other.
func (e *sharedEngine) keepWatching(ctx context.Context) {
	var pause backoff.Backoff
	for ctx.Err() == nil {
		_ = e.watch(ctx, func() {
			pause.Reset()
			e.mu.Lock()
			defer e.mu.Unlock()
			for r := range e.routes {
				r.poke()
			}
		})
		backoff.Sleep(ctx, pause.Next(minPause, maxPause), nil)
	}
}
