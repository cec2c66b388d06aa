package container

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
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
	return o.list(ctx, engineKey{scheme: target.Docker}, engineKey{scheme: target.Podman}, engineKey{scheme: target.Containerd}, engineKey{scheme: target.CRI})
}

// ListOf is List of one engine, in one of its contexts; "" is the current one.
func (o *Opener) ListOf(ctx context.Context, scheme target.Scheme, engineContext string) (all []Listed, errs []error) {
	return o.list(ctx, engineKey{scheme, engineContext})
}

func (o *Opener) list(ctx context.Context, keys ...engineKey) (all []Listed, errs []error) {
	o.once.Do(o.init)
	first := sync.OnceValue(firstProcesses)
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, key := range keys {
		asking.Go(func() {
			some, err := o.listEngine(ctx, key, first)
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
func (o *Opener) listEngine(ctx context.Context, key engineKey, first func() map[string]int) ([]Listed, error) {
	e, err := o.engine(key)
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

// dockerDNS is where Docker's engine itself answers DNS queries inside each container of a network that a user has made, as
// those of Compose are: at ports of its own choice, by UDP and TCP (github.com/moby/moby, libnetwork/resolver.go).
var dockerDNS = netip.MustParseAddr("127.0.0.11")

// withoutDockerDNS leaves out what listens in the container without being the container's.
func withoutDockerDNS(engine target.Scheme, sockets []target.Socket) []target.Socket {
	if engine != target.Docker {
		return sockets
	}
	return slices.DeleteFunc(sockets, func(s target.Socket) bool { return s.Addr() == dockerDNS })
}
