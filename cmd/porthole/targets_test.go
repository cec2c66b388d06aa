package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// What the kernel does not list is said beside what it lists.
func TestFirstListeningOfSome(t *testing.T) {
	unlisted := fmt.Errorf("%w: it lacks a module", netns.ErrNotListed)
	sockets, err := firstListening(t.Context(), &route.Result{Listening: func(ctx context.Context, tell func([]target.Socket)) error {
		tell([]target.Socket{{}})
		<-ctx.Done()
		return unlisted
	}})
	if len(sockets) != 1 || !errors.Is(err, netns.ErrNotListed) {
		t.Errorf("%v, %v", sockets, err)
	}
}
