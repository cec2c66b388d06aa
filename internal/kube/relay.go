package kube

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// joinTries is how many relays are tried that are there: one may end just then.
const joinTries = 3

// relay is a porthole in a pod of its own, in one namespace: a Job, which all routes of this process
// and the user's other processes share. It is started when a tunnel to it is wanted and there is
// none, and ends by itself after its last client.
type relay struct {
	cluster   *Cluster
	namespace string
	limit     time.Duration // that its pod may take to run
	agents    *Agents
	tunnel    agentTunnel

	mu      sync.Mutex
	job     string       // the name of its Job; "" before the first attempt
	started string       // the pod of the relay that this process has started last; "" for none
	status  error        // why it does not run yet, while that is waited for; or nil
	running runningRelay // the last one that was connected to
}

// runningRelay is a relay that was connected to.
type runningRelay struct {
	pod     string
	found   bool   // it was there already
	unread  error  // why its key could not be read, so that any was taken; or nil
	version string // of its porthole
}

// reach is the tunnel's: it connects to the relay, which it starts if there is none, and returns
// the relay's key, or the zero one if the user may not read it. Errors: *RelayError.
func (r *relay) reach(ctx context.Context) (net.Conn, pinned.PublicKey, error) {
	key, err := r.agents.key()
	if err != nil {
		return nil, pinned.PublicKey{}, err
	}
	want, err := r.agents.relayJob(key.Public())
	if err != nil {
		return nil, pinned.PublicKey{}, err
	}
	r.set(func() { r.job = want.Name })
	defer r.set(func() { r.status = nil })
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	start := relayStart{relay: r, want: want, key: key.Public()}
	for try := 1; ; try++ {
		pod, err := start.run(ctx)
		if err != nil {
			return nil, pinned.PublicKey{}, err
		}
		if start.created > 0 {
			r.set(func() { r.started = pod.Name })
		}
		conn, theirs, err := r.join(ctx, pod)
		if err == nil {
			return conn, theirs, nil
		}
		if try == joinTries || ctx.Err() != nil || errors.Is(err, ErrForbidden) {
			return nil, pinned.PublicKey{}, r.failure(err)
		}
	}
}

func (r *relay) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// waitsFor returns why the relay does not run yet, nil if it is not waited for.
func (r *relay) waitsFor() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// last returns the relay that was connected to last.
func (r *relay) last() runningRelay {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

func (r *relay) failure(err error) *RelayError {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &RelayError{Job: r.job, Namespace: r.namespace, Err: err}
}

// join connects to a relay that runs, and learns its key.
func (r *relay) join(ctx context.Context, pod *corev1.Pod) (net.Conn, pinned.PublicKey, error) {
	theirs, unread := r.cluster.agentKey(ctx, r.namespace, pod.Name, relayName)
	if unread != nil && !errors.Is(unread, ErrForbidden) {
		return nil, theirs, unread
	}
	client := r.cluster.portForward(r.namespace, pod.Name)
	client.SPDYOnly, client.KeepWebSocket, client.MaxTunnels, client.Batch = SPDYOnly(), KeepWebSocket(), 1, spdy.LargeBatch
	conn, err := client.Dial(ctx, target.TCPPort(relayPort))
	if err != nil {
		_ = client.Close()
		return nil, theirs, r.cluster.requestError(ctx, err, portForwardTo(r.namespace, pod.Name))
	}
	r.set(func() { r.running = runningRelay{pod: pod.Name, found: pod.Name != r.started, unread: unread} })
	return relayConn{conn.(net.Conn), client}, theirs, nil
}

// relayConn is a connection to a relay's port, which has a port-forward to itself.
type relayConn struct {
	net.Conn
	client *portforward.Client
}

func (c relayConn) Close() error { return errors.Join(c.Conn.Close(), c.client.Close()) }
