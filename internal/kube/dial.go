package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Dial opens a connection to a port of the target, a service's or a pod's, or to what else
// its pods' nodes can reach. While no pod can be reached it waits, at most for r.MaxWait,
// and then returns a *WaitError. Other errors: *PortError, *tunnel.PortError,
// target.ErrUnsupported for all but TCP ports on a stock node, net.ErrClosed after Close,
// the context's.
func (r *Route) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	conn, err := r.dial(ctx, to)
	if err != nil || to.Network == target.UDP {
		return conn, err
	}
	if inTunnel, ok := conn.(tunnel.Replayable); ok {
		var counts reopens
		return tunnel.NewReplayed(r.life, inTunnel, tunnel.Reopening{
			NothingDone: nothingDone,
			Again:       counts.again,
			Dial: func(ctx context.Context) (pipe.Conn, error) {
				r.Log.Debug("connection is opened again", "port", to)
				return r.dial(ctx, to)
			},
		}), nil
	}
	return conn, nil
}

// dial picks a pod and connects to it, again and again until that succeeds or r.MaxWait
// is over.
func (r *Route) dial(parent context.Context, to target.Address) (pipe.Conn, error) {
	began, ref := time.Now(), r.refOf(to)
	ctx, cancel := context.WithTimeout(parent, r.MaxWait)
	defer cancel()
	var pause backoff.Backoff
	var last error // of the last attempt; nil while there is no pod
	for {
		all, changed, _ := r.pods.current()
		candidates, err := r.candidates(all, ref)
		if err != nil {
			return nil, err
		}
		if e, ok := r.balancer.pick(candidates, ref); !ok {
			last = nil
			select {
			case <-changed:
			case <-ctx.Done():
			case <-r.life.Done():
			}
		} else if conn, err := r.connect(ctx, e, &to); err == nil || isFinal(err) {
			return conn, err
		} else {
			if last == nil || ctx.Err() == nil {
				last = err // and not that the last attempt was cut short
			}
			backoff.Sleep(ctx, pauseAfter(&pause, err), changed)
		}
		switch {
		case r.life.Err() != nil:
			return nil, fmt.Errorf("%s: %w", r.name(), net.ErrClosed)
		case errors.Is(parent.Err(), context.Canceled):
			return nil, context.Cause(parent)
		case ctx.Err() != nil:
			return nil, r.waitError(began, last, ref)
		}
	}
}

// waitError says for how long a connection has waited, and why: because of last, or
// of what keeps pods from taking connections. Many connections may end their wait at
// the same time, so that the answer is shared for a moment.
func (r *Route) waitError(began time.Time, last error, ref portRef) error {
	if last == nil {
		last = r.diagnoses.get(ref, func() (time.Duration, error) { return diagnosisTime, r.diagnose(r.life, ref) })
	}
	return &WaitError{Waited: time.Since(began).Round(100 * time.Millisecond), Err: last}
}

// isFinal says whether an error is about this connection alone, so that another
// attempt makes no sense.
func isFinal(err error) bool {
	var agent *AgentError
	var container *ContainerError
	if errors.As(err, &agent) || errors.As(err, &container) {
		return container != nil || agent.Final
	}
	var refused *tunnel.PortError
	var port *PortError
	return errors.As(err, &refused) || errors.As(err, &port) || errors.Is(err, target.ErrUnsupported)
}
