package kube

import (
	"cmp"
	"context"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/spdy"
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
	agents  map[types.UID]*podAgent
	closed  bool
	closing sync.WaitGroup
}

// clientKey tells the Clients of pods apart.
type clientKey struct {
	pod types.UID
	use clientUse
}

// clientUse is what a Client is for. Datagrams have one of their own, and so a tunnel: whatever
// goes ahead in a tunnel still waits for what the sockets of the node, the kubelet and the API
// server hold of it, which beside a download is tens of milliseconds' worth. Agents have one too,
// since each has a tunnel within.
type clientUse int

const (
	forStreams clientUse = iota
	forDatagrams
	forAgent
)

func useOf(network target.Network) clientUse {
	if network == target.UDP {
		return forDatagrams
	}
	return forStreams
}

type podClient struct {
	*portforward.Client
	pod string
}

// to returns the client of a pod for a use, or nil after close.
func (t *tunnels) to(e endpoint, use clientUse) *portforward.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.toLocked(e, use)
}

// agent returns the agent of a pod, or nil after close.
func (t *tunnels) agent(e endpoint) *podAgent {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a, ok := t.agents[e.uid]; ok || t.closed {
		return a
	}
	use := forAgent
	if t.route.Via == target.ViaAgent {
		use = forStreams // nothing else goes there
	}
	a := t.route.newPodAgent(e.pod, t.toLocked(e, use))
	t.agents[e.uid] = a
	return a
}

// toLocked is to; t.mu is held.
func (t *tunnels) toLocked(e endpoint, use clientUse) *portforward.Client {
	key := clientKey{e.uid, use}
	c, ok := t.clients[key]
	if ok || t.closed {
		return c.Client
	}
	r := t.route
	client := r.Cluster.portForward(r.Namespace, e.pod)
	client.SPDYOnly, client.KeepWebSocket, client.StockOnly = r.SPDYOnly, r.KeepWebSocket, r.Via == target.ViaStock
	client.MaxTunnels, client.Silence, client.Log = r.MaxTunnels, r.Silence, r.Log.With("pod", e.pod)
	if use == forAgent || r.Via == target.ViaAgent {
		client.MaxTunnels, client.Batch = 1, spdy.LargeBatch // for the one connection to the agent's port
	}
	t.clients[key] = podClient{client, e.pod}
	return client
}

// portForward returns a client of a pod, whose other fields are the caller's to set.
func (c *Cluster) portForward(namespace, pod string) *portforward.Client {
	return &portforward.Client{
		URL:       c.request(portForwardTo(namespace, pod)).URL(),
		Transport: c.tunnels, Ways: &c.ways, Again: c.pauseTunnels(),
	}
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
	if a, ok := t.agents[uid]; ok {
		delete(t.agents, uid)
		t.closing.Go(a.tunnel.shared.Close)
	}
	for _, use := range []clientUse{forStreams, forDatagrams, forAgent} {
		key := clientKey{uid, use}
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
	for _, a := range t.agents {
		t.closing.Go(a.tunnel.shared.Close)
	}
	for _, c := range t.clients {
		t.closing.Go(func() { _ = c.Close() })
	}
	t.clients, t.agents = nil, nil
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
	client := r.tunnels.to(e, useOf(there.Network))
	if client == nil {
		return nil, net.ErrClosed
	}
	attempt, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	if to == nil {
		err = client.Connect(attempt)
	} else if via, failed := r.choose(attempt, client, there); failed != nil {
		err = failed
	} else if via == target.ViaAgent {
		conn, err = r.tunnels.agent(e).dial(ctx, there)
	} else {
		conn, err = client.Dial(attempt, there)
	}
	if err == nil {
		r.balancer.confirm(e.uid)
		return conn, nil
	}
	return nil, r.connectError(attempt, e, to, err)
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
