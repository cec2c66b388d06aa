package kube

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
)

const (
	// maxWarm is how many pods of a service have a tunnel kept open for them.
	maxWarm = 8
	// sweepPause is between two searches for tunnels to pods that are gone.
	sweepPause = 5 * time.Second
	// blindPause is the same for a user who may not see pods, which may change.
	blindPause = 5 * time.Minute
)

// tunnels holds the portforward.Clients of each pod that was connected to. Its
// methods are safe to call at the same time.
type tunnels struct {
	route *Route

	mu      sync.Mutex
	clients map[clientKey]podClient
	closed  bool
	closing sync.WaitGroup
}

// clientKey tells the Clients of pods apart. Datagrams have one of their own, and so a tunnel:
// whatever goes ahead in a tunnel still waits for what the sockets of the node, the kubelet and the
// API server hold of it, which beside a download is tens of milliseconds' worth.
type clientKey struct {
	pod       types.UID
	datagrams bool
}

type podClient struct {
	*portforward.Client
	pod string
}

// to returns the client of a pod for a network, or nil after close.
func (t *tunnels) to(e endpoint, network target.Network) *portforward.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := clientKey{e.uid, network == target.UDP}
	c, ok := t.clients[key]
	if ok || t.closed {
		return c.Client
	}
	r := t.route
	client := &portforward.Client{
		URL:           r.Cluster.request(portForwardTo(r.Namespace, e.pod)).URL(),
		Transport:     r.Cluster.tunnels,
		SPDYOnly:      r.SPDYOnly,
		KeepWebSocket: r.KeepWebSocket,
		Ways:          &r.Cluster.ways,
		MaxTunnels:    r.MaxTunnels,
		Silence:       r.Silence,
		Again:         r.Cluster.pauseTunnels(),
		Log:           r.Log.With("pod", e.pod),
	}
	t.clients[key] = podClient{client, e.pod}
	return client
}

// has says whether a pod has been connected to.
func (t *tunnels) has(uid types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.clients[clientKey{pod: uid}]
	return ok
}

// except are the names of the pods that have a client and are not among all.
func (t *tunnels) except(all []endpoint) map[types.UID]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := map[types.UID]string{}
	for key, c := range t.clients {
		left[key.pod] = c.pod
	}
	for _, e := range all {
		delete(left, e.uid)
	}
	return left
}

// drop closes the tunnels of one pod.
func (t *tunnels) drop(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range []clientKey{{uid, false}, {uid, true}} {
		c, ok := t.clients[key]
		delete(t.clients, key)
		if ok && !t.closed {
			t.closing.Go(func() { _ = c.Close() })
		}
	}
}

// close closes all tunnels and waits until nothing of them is left.
func (t *tunnels) close() {
	t.mu.Lock()
	t.closed = true
	for _, c := range t.clients {
		t.closing.Go(func() { _ = c.Close() })
	}
	t.clients = nil
	t.mu.Unlock()
	t.closing.Wait()
}

// connect makes one attempt to connect to an address of a pod, whose port has the number e.port
// there, or if that is nil only to have a tunnel to the pod. If the pod is the reason for a failure, the balancer avoids it
// for a while.
func (r *Route) connect(ctx context.Context, e endpoint, to *target.Address) (conn pipe.Conn, err error) {
	var there target.Address
	if to != nil {
		there = *to
		there.Port = cmp.Or(e.port, to.Port)
	}
	client := r.tunnels.to(e, there.Network)
	if client == nil {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	if to != nil {
		conn, err = client.Dial(ctx, there)
	} else {
		err = client.Connect(ctx)
	}
	if err == nil {
		r.balancer.confirm(e.uid)
		return conn, nil
	}
	status := refusal(err)
	if gone := status == http.StatusNotFound; gone || status >= http.StatusInternalServerError || errors.Is(err, context.DeadlineExceeded) {
		r.balancer.penalize(e.uid, gone) // before the monitor looks, so that it avoids the pod too
	}
	if to != nil {
		select { // the monitor looks whether the route still works
		case r.recheck <- struct{}{}:
		default:
		}
	}
	switch {
	case errors.Is(err, net.ErrClosed):
		return nil, err
	case errors.Is(err, target.ErrUnsupported):
		return nil, &NodeError{Pod: e.pod, To: *to}
	}
	return nil, r.Cluster.requestError(ctx, err, portForwardTo(r.Namespace, e.pod))
}

// checkNode returns a *NodeError if one of the ports needs porthole on the node of the pod that
// connections go to now, and it is a stock one. Dial would return the same for each connection.
func (r *Route) checkNode(ctx context.Context, ports []target.Port) error {
	for _, p := range ports {
		to := p.To()
		if _, err := to.TCPOnly(); err == nil {
			continue
		}
		for _, e := range r.likely(1) {
			client := r.tunnels.to(e, to.Network)
			if client != nil && errors.Is(client.Carries(ctx, to), target.ErrUnsupported) {
				return &NodeError{Pod: e.pod, To: to}
			}
		}
	}
	return nil
}

// warmed is what became of opening a tunnel to a pod.
type warmed struct {
	pod string
	err error
}

// warmPods opens a tunnel to each pod that connections are likely to go to next,
// unless it has one, and returns the name of the first pod that has. It fails if none
// has, and with errChanged when changed is closed.
func (r *Route) warmPods(ctx context.Context, changed <-chan struct{}) (pod string, err error) {
	all, _, err := r.pods.current()
	pods := r.likely(maxWarm)
	if len(pods) == 0 {
		if err == nil {
			err = r.unavailable(all, r.wantedPorts()[0])
		}
		return "", err
	}
	first := make(chan warmed, len(pods)) // whichever it is
	spreads := r.balancer.spreads()
	results := make([]chan warmed, len(pods))
	for i, e := range pods {
		if results[i] = first; !spreads {
			results[i] = make(chan warmed, 1) // in their order: connections go to the first pod
		}
		r.work.Go(func() {
			_, err := r.connect(r.life, e, nil)
			results[i] <- warmed{e.pod, err}
		})
	}
	for _, next := range results {
		select {
		case got := <-next:
			if got.err == nil {
				return got.pod, nil
			}
			err = got.err
		case <-changed:
			return "", errChanged
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	return "", err
}

// sweep closes the tunnels of pods that are gone, until Close. A pod that merely no
// longer belongs to the target keeps them, and its connections with them.
func (r *Route) sweep() {
	pause := sweepPause
	for {
		backoff.Sleep(r.life, pause, nil)
		if r.life.Err() != nil {
			return
		}
		all, _, _ := r.pods.current()
		pause = sweepPause
		for uid, pod := range r.tunnels.except(all) {
			gone, err := r.isGone(uid, pod)
			if apierrors.IsForbidden(err) {
				pause = blindPause // the user may not see the others either
				break
			}
			if gone {
				r.tunnels.drop(uid)
			}
		}
	}
}

// isGone says whether a pod no longer exists. It is one request: for a user who may
// not ask, it need not be found out who they are, as Cluster.get does.
func (r *Route) isGone(uid types.UID, name string) (bool, error) {
	ctx, cancel := r.Cluster.background(r.life)
	defer cancel()
	var now corev1.Pod
	err := r.Cluster.request(apiAction{"get", podResource(), "", r.Namespace, name}).Do(ctx).Into(&now)
	if err != nil {
		return apierrors.IsNotFound(err), err
	}
	return now.UID != uid && !isPlaceholder(uid), nil
}
