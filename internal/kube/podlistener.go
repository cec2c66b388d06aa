package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Bind is a route.Binder at one of the target's pods, through porthole on its node, or an agent in it. When
// that pod is about to end, or is not ready while another is, the Listener moves to the other. While no pod
// can be reached Bind waits, at most for r.MaxWait. Errors: *tunnel.PortError, *AgentError, *WaitError,
// target.ErrUnsupported where neither a node nor an agent does that.
func (r *Route) Bind(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
	first, e, err := r.bind(ctx, at)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(r.life)
	l := &podListener{route: r, life: life, end: end, asked: first.Local, current: first}
	r.work.Go(func() { l.watch(e, first) })
	return &route.Listener{Local: first.Local, Streams: l}, nil
}

// bind listens at the pod that is chosen, again and again until that succeeds or r.MaxWait is over.
func (r *Route) bind(parent context.Context, at target.Endpoint) (*route.Listener, endpoint, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(parent, r.MaxWait)
	defer cancel()
	var pause backoff.Backoff
	var last error
	for {
		_, changed, _ := r.pods.current()
		if e, ok := r.listeningPod(); !ok {
			last = nil
			select {
			case <-changed:
			case <-ctx.Done():
			case <-r.life.Done():
			}
		} else if l, err := r.bindAt(parent, e, at); err == nil || isFinal(err) || agentNeedsPerson(err) {
			return l, e, err
		} else {
			last = err
			r.avoidListening(e)
			backoff.Sleep(ctx, pauseAfter(&pause, err), changed)
		}
		switch {
		case r.life.Err() != nil:
			return nil, endpoint{}, fmt.Errorf("%s: %w", r.name(), net.ErrClosed)
		case parent.Err() != nil:
			return nil, endpoint{}, context.Cause(parent)
		case ctx.Err() != nil:
			return nil, endpoint{}, r.waitError(began, last, portRef{})
		}
	}
}

// agentNeedsPerson says whether no agent starts until somebody grants a right, or names another image. The session
// tells that, and tries again if it has listened before.
func agentNeedsPerson(err error) bool {
	return errors.Is(err, ErrForbidden) || errors.Is(err, ErrNotStarted)
}

// listeningPod chooses the pod to listen at: the one that is listened at already, so that all ports are in one
// pod, or the one that connections would go to.
func (r *Route) listeningPod() (endpoint, bool) {
	all, _, _ := r.pods.current()
	likely := r.likely(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range all {
		if e.uid == r.listenPod && !e.terminating && (e.ready || len(likely) == 0) {
			return e, true
		}
	}
	if len(likely) == 0 {
		return endpoint{}, false
	}
	r.listenPod = likely[0].uid
	return likely[0], true
}

// avoidListening has listeningPod choose anew, after a pod could not be listened at.
func (r *Route) avoidListening(e endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listenPod == e.uid {
		r.listenPod = ""
	}
}

// bindAt makes one attempt to listen at a pod.
func (r *Route) bindAt(ctx context.Context, e endpoint, at target.Endpoint) (*route.Listener, error) {
	client := r.tunnels.to(e, useOf(at.Network))
	if client == nil {
		return nil, net.ErrClosed
	}
	l, err := r.bindVia(ctx, client, e, at)
	var refused *tunnel.PortError
	switch {
	case err == nil:
		r.balancer.confirm(e.uid)
		return l, nil
	case errors.Is(err, tunnel.ErrNoSandbox): // tried again at the next pod, and here while this one comes back
		return nil, fmt.Errorf("pod %s: %w", e.pod, tunnel.ErrNoSandbox)
	case errors.As(err, &refused), errors.Is(err, target.ErrUnsupported):
		return nil, err
	}
	return nil, r.connectError(ctx, e, nil, err)
}

// bindVia listens at a pod through its node, or an agent where the node cannot. What a node's policy
// denies is not asked of an agent.
func (r *Route) bindVia(ctx context.Context, client *portforward.Client, e endpoint, at target.Endpoint) (*route.Listener, error) {
	if r.Via != target.ViaAgent {
		attempt, cancel := context.WithTimeout(ctx, attemptLimit)
		l, err := client.Listen(attempt, at, r.session)
		cancel()
		if !errors.Is(err, target.ErrUnsupported) || r.Via != target.ViaAuto || r.Agents == nil {
			return l, err
		}
	}
	return r.tunnels.agent(e).listen(ctx, at)
}

// listen listens at the agent's pod. Errors: those of start, and *tunnel.PortError.
func (a *podAgent) listen(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
	client, err := a.start(ctx, target.Address{Network: at.Network, Port: at.Port()})
	if err != nil {
		return nil, err
	}
	l, err := client.Listen(ctx, at, a.route.session)
	var refused *tunnel.PortError
	if err != nil && !errors.As(err, &refused) { // the tunnel was lost just now
		err = a.failure(ctx, err)
	}
	return l, err
}

// podListener is a net.Listener that moves from pod to pod.
type podListener struct {
	route *Route
	life  context.Context // ends with Close
	end   context.CancelFunc
	asked target.Endpoint // what the first pod listens on, and so the others

	mu      sync.Mutex
	current *route.Listener
	moved   bool // current was closed, since another pod is to be listened at
}

// watch closes the listener at a pod once another pod is to be listened at.
func (l *podListener) watch(e endpoint, at *route.Listener) {
	for {
		_, changed, _ := l.route.pods.current()
		if now, ok := l.route.listeningPod(); ok && now.uid != e.uid {
			break
		}
		select {
		case <-changed:
		case <-l.life.Done():
			return
		}
	}
	l.mu.Lock()
	l.moved = true
	l.mu.Unlock()
	_ = at.Close()
}

// Accept implements net.Listener. It moves to the next pod when watch says so, and fails when the listener
// at a pod is lost, or there can be none.
func (l *podListener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		current := l.current
		l.mu.Unlock()
		conn, err := current.Streams.Accept()
		if err == nil || !l.hasMoved() || l.life.Err() != nil {
			return conn, err
		}
		next, e, err := l.route.bind(l.life, l.asked)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.current = next
		l.mu.Unlock()
		if l.life.Err() != nil {
			_ = next.Close()
		}
		l.route.work.Go(func() { l.watch(e, next) })
	}
}

// hasMoved reports, once, whether watch has closed the listener.
func (l *podListener) hasMoved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	moved := l.moved
	l.moved = false
	return moved
}

// Close implements net.Listener.
func (l *podListener) Close() error {
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current.Close()
}

// Addr implements net.Listener.
func (l *podListener) Addr() net.Addr { return l.current.Streams.Addr() }
