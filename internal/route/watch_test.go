package route_test

import (
	"context"
	"errors"
	"testing"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// What is told first is returned, beside the error of what cannot be listed.
func TestFirst(t *testing.T) {
	failure := errors.New("some cannot be listed")
	telling := func() route.Watch {
		return func(ctx context.Context, tell func([]target.Socket)) error {
			tell(make([]target.Socket, 1))
			tell(make([]target.Socket, 2)) // before ctx has ended it
			<-ctx.Done()
			return ctx.Err()
		}
	}
	silent := func(context.Context, func([]target.Socket)) error { return failure }
	for name, test := range map[string]struct {
		watch   route.Watch
		sockets int
		want    error
	}{
		"told": {telling(), 1, nil},
		"told of some": {func(ctx context.Context, tell func([]target.Socket)) error {
			tell(make([]target.Socket, 1))
			return failure
		}, 1, failure},
		"not told": {silent, 0, failure},
		"never":    {nil, 0, target.ErrUnsupported},
	} {
		sockets, err := test.watch.First(t.Context())
		if len(sockets) != test.sockets || !errors.Is(err, test.want) {
			t.Errorf("%s: %d sockets, %v", name, len(sockets), err)
		}
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(failure)
	if _, err := route.Watch(func(ctx context.Context, _ func([]target.Socket)) error { return ctx.Err() }).First(ended); !errors.Is(err, failure) {
		t.Errorf("after the end: %v", err)
	}
}
