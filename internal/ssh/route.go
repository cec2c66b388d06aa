package ssh

import (
	"context"
	"errors"
	"sync"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Route leads to a target of another host, through one tunnel after the other.
type Route struct {
	host   *host
	name   string // of the target, as the agent reads it
	events func(route.Event)
	// session is the token by which a later tunnel takes over what was listened on.
	session string
	life    context.Context // ends with the target, whose end is its cause, or with Close
	end     context.CancelCauseFunc
	work    sync.WaitGroup

	mu       sync.Mutex
	target   *tunnel.ClientTarget // in the current tunnel; nil while there is none
	changed  chan struct{}        // closed when target is set; nil unless somebody waits
	identity string               // of the first one
}

// open opens the target in the host's tunnel. Once it is another process, or none, that is a *route.FinalError.
func (r *Route) open(ctx context.Context) (*tunnel.ClientTarget, error) {
	client, err := r.host.tunnel(ctx)
	if err != nil {
		return nil, err
	}
	t, err := client.OpenTarget(ctx, r.name, r.identity)
	if err != nil {
		err = r.host.failure(err)
		var refused *tunnel.PortError
		if errors.As(err, &refused) && r.identity != "" {
			err = &route.FinalError{Err: err}
		}
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.identity = t, t.Identity
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	return t, nil
}

// keep opens the target anew whenever its tunnel is lost, until it is gone or the route closed.
func (r *Route) keep(t *tunnel.ClientTarget) {
	for {
		err := t.Wait(r.life)
		switch {
		case r.life.Err() != nil:
			return
		case !errors.Is(err, spdy.ErrTunnel):
			r.end(r.host.failure(err))
			return
		}
		r.mu.Lock()
		r.target = nil
		r.mu.Unlock()
		if t, err = route.Reopen(r.life, r.host.failure(err), r.events, r.open); err != nil {
			r.end(err)
			return
		}
		r.events(route.Event{Kind: route.Ready, Again: true})
	}
}

// Dial implements route.Dialer. While there is no tunnel it waits for one.
func (r *Route) Dial(ctx context.Context, to target.Address) (conn pipe.Conn, err error) {
	err = r.use(ctx, func(t *tunnel.ClientTarget) error {
		conn, err = t.Dial(to)
		return err
	})
	return conn, err
}

// Bind is a route.Binder. While there is no tunnel it waits for one.
func (r *Route) Bind(ctx context.Context, at target.Endpoint) (l *route.Listener, err error) {
	err = r.use(ctx, func(t *tunnel.ClientTarget) error {
		l, err = t.Listen(ctx, at, r.session)
		return err
	})
	return l, err
}

// Listening tells what listens at the target. While there is no tunnel it waits for one.
func (r *Route) Listening(ctx context.Context, tell func([]target.Socket)) error {
	return r.use(ctx, func(t *tunnel.ClientTarget) error { return t.Listening(ctx, tell) })
}

// use calls f with the target, and again in the next tunnel as long as that turns out to be lost.
func (r *Route) use(ctx context.Context, f func(*tunnel.ClientTarget) error) error {
	for {
		r.mu.Lock()
		t := r.target
		if t == nil && r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if t != nil {
			err := f(t)
			if !errors.Is(err, spdy.ErrTunnel) && !errors.Is(err, spdy.ErrGoAway) {
				return err
			}
			_ = t.Wait(ctx) // until keep sees the loss too, and opens the target again
			r.mu.Lock()
			if r.target == t {
				r.target = nil
			}
			r.mu.Unlock()
			continue
		}
		select {
		case <-changed:
		case <-r.life.Done():
			return context.Cause(r.life)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Wait implements route.Route.
func (r *Route) Wait(ctx context.Context) error {
	select {
	case <-r.life.Done():
		return context.Cause(r.life)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close implements route.Route.
func (r *Route) Close() error {
	r.end(nil)
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target != nil {
		return r.target.Close()
	}
	return nil
}
