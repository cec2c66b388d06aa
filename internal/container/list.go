package container

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"porthole.dev/porthole/internal/target"
)

// listTime is how long an engine may take to list its containers.
const listTime = 3 * time.Second

// List returns the containers of every engine that runs, in the order of their targets, with what listens inside of them as
// far as it can be seen from here. Porthole's own helper containers are left out. Engines that do not run are left out; the errors are those of the others.
func (o *Opener) List(ctx context.Context) (all []Listed, errs []error) {
	return o.ListOf(ctx, target.Docker, target.Podman, target.Containerd, target.CRI)
}

// ListOf is List of some engines.
func (o *Opener) ListOf(ctx context.Context, schemes ...target.Scheme) (all []Listed, errs []error) {
	o.once.Do(o.init)
	first := sync.OnceValue(firstProcesses)
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, scheme := range schemes {
		asking.Go(func() {
			some, err := o.listEngine(ctx, scheme, first)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, some...)
			if err != nil && !errors.Is(err, ErrNoEngine) && !errors.Is(err, ErrUnsupported) {
				errs = append(errs, err)
			}
		})
	}
	asking.Wait()
	nameProcesses(all)
	slices.SortFunc(all, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(a.Target.String(), b.Target.String()), cmp.Compare(a.ID, b.ID))
	})
	return all, errs
}

// listEngine lists the containers of one engine; first returns the first processes of containers.
func (o *Opener) listEngine(ctx context.Context, scheme target.Scheme, first func() map[string]int) ([]Listed, error) {
	e, err := o.engine(engineKey{scheme: scheme})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, listTime, ErrNoAnswer)
	defer cancel()
	all, err := e.list(ctx)
	all = slices.DeleteFunc(all, func(l Listed) bool { return l.helper })
	if err == nil {
		lookInside(ctx, e, all, first)
	}
	return all, err
}
