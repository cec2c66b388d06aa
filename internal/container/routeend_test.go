package container

import (
	"context"
	"testing"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// A route that ends says nothing of its container, which still runs.
func TestRouteEndsQuietly(t *testing.T) {
	r := newRoute(&Opener{life: t.Context()}, nil, target.Forward{}, func(e route.Event) { t.Errorf("told %v: %v", e.Kind, e.Err) })
	m := &member{Result: &route.Result{}, users: 1}
	m.life, m.end = context.WithCancelCause(r.life)
	r.members = []*member{m}
	r.mu.Lock()
	r.work.Go(r.keep)
	time.Sleep(20 * time.Millisecond) // until it counts the members
	r.end(nil)
	m.finish() // as awaitEnd does at the end of the route's life
	r.mu.Unlock()
	r.work.Wait()
}
