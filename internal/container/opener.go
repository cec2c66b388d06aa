package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Opener opens routes to containers of the engines of this host, and of others that docker's and podman's settings lead to.
// There is one connection to each engine. Set the fields, all of which may be zero, before the first Open; Close it
// after the last route.
type Opener struct {
	// Version is that of this program, for a helper container.
	Version string
	// AgentBinary is the path of porthole for the engine's machine, for a helper container; "" finds one.
	AgentBinary string
	// MaxWait is how long a connection waits while its container does not run; 0 means 30 s.
	MaxWait time.Duration
	// Silence is after how long without a sign of life a helper container is given up; 0 means 30 s, negative is never.
	Silence time.Duration

	once    sync.Once
	life    context.Context
	end     context.CancelFunc
	mu      sync.Mutex
	engines map[engineKey]*sharedEngine
}

const defaultWait = 30 * time.Second

// engineKey tells engines apart.
type engineKey struct {
	scheme  target.Scheme
	context string // of docker or podman; "" is the current one
}

func (o *Opener) init() {
	o.life, o.end = context.WithCancel(context.Background())
	o.engines = map[engineKey]*sharedEngine{}
	o.MaxWait = cmp.Or(o.MaxWait, defaultWait)
}

// Open is a route.Opener for targets of an engine.
func (o *Opener) Open(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	o.once.Do(o.init)
	e, err := o.engine(engineKey{f.Target.Scheme, f.EngineContext})
	if err != nil {
		return nil, final(err)
	}
	r := newRoute(o, e, f, events)
	if err := r.begin(ctx); err != nil {
		_ = r.Close()
		return nil, final(err)
	}
	return &route.Result{Route: r, Ports: f.Ports, Bind: r.Bind, Listening: r.Listening}, nil
}

// final marks the errors that do not pass by themselves.
func final(err error) error {
	for _, lasting := range []error{netns.ErrPermission, netns.ErrUnsupported, ErrUnsupported, ErrEngineTooOld, ErrOwnNetwork} {
		if errors.Is(err, lasting) {
			return &route.FinalError{Err: err}
		}
	}
	return err
}

// engine returns the connection to an engine.
func (o *Opener) engine(key engineKey) (*sharedEngine, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.engines[key]; e != nil {
		return e, nil
	}
	made, err := newEngine(key)
	if err != nil {
		return nil, err
	}
	e := &sharedEngine{engine: made, life: o.life, routes: map[*Route]bool{}}
	o.engines[key] = e
	return e, nil
}

// newEngine makes what speaks to an engine, without asking it anything yet. Errors: *EngineError.
func newEngine(key engineKey) (engine, error) {
	switch key.scheme {
	case target.Docker:
		return newDocker(key.context)
	case target.Podman:
		return newPodman(key.context)
	case target.Containerd:
		return newContainerd()
	case target.CRI:
		return newCRI()
	}
	return nil, fmt.Errorf("%s: %w", key.scheme, target.ErrUnknown)
}

// Close closes the connections to all engines. No Route is used after it.
func (o *Opener) Close() {
	o.once.Do(o.init)
	o.end()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.engines {
		e.work.Wait()
		e.closeHelpers()
		_ = e.Close()
	}
}
