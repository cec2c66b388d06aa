package container

import (
	"context"
	"errors"
	"slices"

	"porthole.dev/porthole/internal/netns"
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
		r.events(route.Event{Kind: route.Carried, Via: target.ViaAgent, Container: c.Name, Version: opened.Route.(*helperRoute).network.otherVersion(), Err: why})
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
	h := newHelperRoute(e, c)
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
	r.helped = append(slices.DeleteFunc(r.helped, (*helperRoute).over), h)
	return &route.Result{Route: h, Bind: h.network.Bind, Listening: h.network.Listening}, nil
}
