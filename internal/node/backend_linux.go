package node

import (
	"context"
	"log/slog"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// backend enters pods. It is called from many goroutines at once.
type backend interface {
	dial(ctx context.Context, s *sandbox, port uint16) (pipe.Conn, error)
}

// newBackend makes the backend b, which enters none of the forbidden namespaces.
func newBackend(b Backend, forbidden []netns.ID, log *slog.Logger) backend {
	if b == Socat {
		return socat{log: log, forbidden: forbidden}
	}
	return &native{entrances{forbidden: forbidden}}
}

// native makes the socket inside the pod's namespace and connects from outside.
type native struct{ entrances entrances }

func (n *native) dial(ctx context.Context, s *sandbox, port uint16) (pipe.Conn, error) {
	return n.entrances.dial(ctx, s.place, port)
}

// route is the Dialer to a sandbox, as far as the policy lets it.
type route struct {
	sandbox *sandbox
	backend backend
	policy  Policy
}

// Dial connects to a TCP port of the sandbox.
func (r *route) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	port, err := to.TCPOnly()
	if err != nil {
		return nil, err
	}
	if err := r.policy.check(r.sandbox.hostNetwork, port); err != nil {
		return nil, err
	}
	return r.backend.dial(ctx, r.sandbox, port)
}
