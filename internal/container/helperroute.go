package container

import (
	"context"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// helperRoute is a route.Route through the helpers of one container. Each is started when it is needed: the one that reaches Unix
// sockets sees the container's processes, which the other does not have to.
type helperRoute struct{ network, files *helper }

func newHelperRoute(e *helperEngine, c found) *helperRoute {
	return &helperRoute{network: newHelper(e, c, false), files: newHelper(e, c, true)}
}

// Dial implements route.Dialer.
func (h *helperRoute) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if to.Network == target.Unix {
		return h.files.Dial(ctx, to)
	}
	return h.network.Dial(ctx, to)
}

// Wait implements route.Route. That the container has ended is told by its engine.
func (h *helperRoute) Wait(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// leave closes each helper once it has no connections.
func (h *helperRoute) leave() {
	h.network.leave()
	h.files.leave()
}

// over reports whether both are closed after leave.
func (h *helperRoute) over() bool { return h.network.over() && h.files.over() }

// Close implements route.Route.
func (h *helperRoute) Close() error {
	h.network.close()
	h.files.close()
	return nil
}
