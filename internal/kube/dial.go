package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
)

// errPortMoved says that what a pod's ports stand for has just changed.
var errPortMoved = errors.New("the pod has no such port any more")

// call is one Dial.
type call struct {
	route *Route
	port  uint16
	pause backoff.Backoff
	err   error // of the last attempt, or nil while there was no pod
}

// run tries until a pod is reached, or it has waited long enough.
func (c *call) run(parent context.Context) (pipe.Conn, error) {
	r, began := c.route, time.Now()
	ctx, cancel := context.WithTimeout(parent, r.MaxWait)
	defer cancel()
	for {
		all, changed, _ := r.pods.current()
		e, ok, err := r.pick(all, r.askedAs(c.port))
		if err != nil {
			return nil, err
		}
		if ok {
			conn, err := c.try(ctx, e)
			if err == nil || final(err) {
				return conn, err
			}
			if c.err == nil || ctx.Err() == nil {
				c.err = err // and not that the last attempt was cut short
			}
			backoff.Sleep(ctx, pauseAfter(&c.pause, err), changed)
		} else {
			c.err = nil
			select {
			case <-changed:
			case <-ctx.Done():
			case <-r.life.Done():
			}
		}
		switch {
		case r.life.Err() != nil:
			return nil, fmt.Errorf("%s: %w", r.resolved.name, net.ErrClosed)
		case errors.Is(parent.Err(), context.Canceled):
			return nil, context.Cause(parent)
		case ctx.Err() != nil:
			return nil, &WaitError{Waited: time.Since(began).Round(100 * time.Millisecond), Err: c.why()}
		}
	}
}

// why is the reason for having waited in vain.
func (c *call) why() error {
	if c.err != nil {
		return c.err
	}
	return c.route.reasons.of(c.route, c.route.askedAs(c.port))
}

// reasons has what why finds out for all connections that end their wait at the same
// time, and may be many.
type reasons struct {
	mu    sync.Mutex
	known map[portRef]reason
}

type reason struct {
	err   error
	found time.Time
}

// reasonTime is how old a reason may be.
const reasonTime = time.Second

func (k *reasons) of(r *Route, to portRef) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known = map[portRef]reason{}
	}
	known, ok := k.known[to]
	if !ok || time.Since(known.found) > reasonTime {
		known = reason{r.why(r.life, to), time.Now()}
		k.known[to] = known
	}
	return known.err
}

// try makes one attempt with one pod.
func (c *call) try(ctx context.Context, e endpoint) (pipe.Conn, error) {
	r := c.route
	port, ok, err := r.portAt(e, r.askedAs(c.port))
	if err == nil && !ok {
		err = errPortMoved // since the pod was picked
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	conn, err := r.reach(ctx, e, func(client *portforward.Client) (pipe.Conn, error) { return client.Dial(ctx, port) })
	if err != nil {
		r.look()
	}
	return conn, err
}

// reach does something with a pod's tunnels. If the pod is why that fails, others
// are preferred for a while.
func (r *Route) reach(ctx context.Context, e endpoint, do func(*portforward.Client) (pipe.Conn, error)) (pipe.Conn, error) {
	client := r.tunnels.of(e)
	if client == nil {
		return nil, net.ErrClosed
	}
	conn, err := do(client)
	if err == nil {
		r.balancer.confirm(e.uid)
		return conn, nil
	}
	var status *portforward.StatusError
	gone := errors.As(err, &status) && status.Code == http.StatusNotFound
	if gone || status != nil && status.Code >= http.StatusInternalServerError || errors.Is(err, context.DeadlineExceeded) {
		r.balancer.penalize(e.uid, gone)
	}
	return nil, r.Cluster.tunnelFailed(ctx, err, r.Namespace, e.pod)
}

// look asks keep to see whether the route is still there.
func (r *Route) look() {
	select {
	case r.suspect <- struct{}{}:
	default:
	}
}

// final says whether an error is the connection's own, so that trying again makes
// no sense.
func final(err error) bool {
	var refused *portforward.PortError
	var port *PortError
	return errors.As(err, &refused) || errors.As(err, &port)
}
