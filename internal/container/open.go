package container

import (
	"context"
	"errors"
	"slices"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// openContainer opens one container that runs, by what via says. The Result has no Ports.
func (r *Route) openContainer(ctx context.Context, c found) (*route.Result, error) {
	var why error
	if r.via != target.ViaAgent {
		opened, err := openNative(ctx, c)
		switch {
		case err == nil:
			r.engine.here.Store(true)
		case errors.Is(err, ErrElsewhere) && r.engine.here.Load():
			err = ErrEnded // and its engine has not noticed yet
		}
		if r.via == target.ViaNative || !helps(err) {
			return opened, err
		}
		why = err
	}
	opened, err := r.openHelper(ctx, c)
	if errors.Is(err, errNoHelpers) && why != nil {
		err = why
	}
	if err == nil && !r.carried {
		r.carried = true
		r.events(route.Event{Kind: route.Carried, Via: target.ViaAgent, Container: c.Name, Version: opened.Route.(*helpers).network.otherVersion(), Err: why})
	}
	return opened, err
}

// helps reports whether a helper container reaches what this process cannot: its process is not on this machine, or its
// namespaces are not this user's to enter, who may use the engine.
func helps(err error) bool {
	return errors.Is(err, ErrElsewhere) || errors.Is(err, netns.ErrPermission)
}

// openHelper starts the helper that the forward's ports need.
func (r *Route) openHelper(ctx context.Context, c found) (*route.Result, error) {
	e, err := r.engine.helperEngine(r.opener)
	if err != nil {
		return nil, err
	}
	h := newHelpers(e, c)
	isUnix := func(p target.Port) bool { return p.Network == target.Unix }
	isNot := func(p target.Port) bool { return p.Network != target.Unix }
	if slices.ContainsFunc(r.ports, isUnix) {
		err = h.files.start(ctx)
	}
	if err == nil && (len(r.ports) == 0 || slices.ContainsFunc(r.ports, isNot)) {
		err = h.network.start(ctx)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.helped = append(slices.DeleteFunc(r.helped, (*helpers).over), h)
	return &route.Result{Route: h, Bind: h.network.Bind, Listening: h.network.Listening}, nil
}

// helpers are the helpers of one container: a route.Route. Each is started when it is needed: what reaches Unix sockets sees the
// container's processes, which the other does not have to.
type helpers struct{ network, files *helper }

func newHelpers(e *helperEngine, c found) *helpers {
	return &helpers{network: newHelper(e, c, false), files: newHelper(e, c, true)}
}

// Dial implements route.Dialer.
func (h *helpers) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if to.Network == target.Unix {
		return h.files.Dial(ctx, to)
	}
	return h.network.Dial(ctx, to)
}

// Wait implements route.Route. That the container has ended is told by its engine.
func (h *helpers) Wait(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// leave closes each helper once it has no connections.
func (h *helpers) leave() {
	h.network.leave()
	h.files.leave()
}

// over reports whether both are closed after leave.
func (h *helpers) over() bool { return h.network.over() && h.files.over() }

// Close implements route.Route.
func (h *helpers) Close() error {
	h.network.close()
	h.files.close()
	return nil
}
