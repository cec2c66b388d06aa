package kube

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/portforward"
)

// tunnels holds the client of each pod that was connected to. Its methods are
// safe to call at the same time.
type tunnels struct {
	client func(pod string) *portforward.Client

	mu      sync.Mutex
	clients map[types.UID]podClient
	closed  bool
	closing sync.WaitGroup
}

type podClient struct {
	*portforward.Client
	pod string
}

// of returns the pod's client, or nil after close.
func (t *tunnels) of(e endpoint) *portforward.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.clients[e.uid]
	if !ok && !t.closed {
		c = podClient{t.client(e.pod), e.pod}
		t.clients[e.uid] = c
	}
	return c.Client
}

// used says whether a pod has been connected to.
func (t *tunnels) used(uid types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.clients[uid]
	return ok
}

// strays are the pods that have a client, and are not among all any more.
func (t *tunnels) strays(all []endpoint) map[types.UID]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := map[types.UID]string{}
	for uid, c := range t.clients {
		left[uid] = c.pod
	}
	for _, e := range all {
		delete(left, e.uid)
	}
	return left
}

// drop closes the tunnels of a pod that is gone.
func (t *tunnels) drop(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.clients[uid]
	delete(t.clients, uid)
	if ok && !t.closed {
		t.closing.Go(func() { _ = c.Close() })
	}
}

// close closes all tunnels and waits until everything of theirs is gone.
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
