package kube

import "sync"

// board holds what is known of the pods of a route, for all who wait for it to
// change. Its methods are safe to call at the same time.
type podState struct {
	mu      sync.Mutex
	all     []endpoint
	err     error         // why all may be out of date, or nil
	changed chan struct{} // closed when something has changed
}

func newPodState() *podState { return &podState{changed: make(chan struct{})} }

// look returns what is known, and a channel that is closed when it changes.
func (b *podState) current() (all []endpoint, changed <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all, b.changed, b.err
}

// set replaces what is known; nobody may change all afterwards.
func (b *podState) set(all []endpoint) {
	b.mu.Lock()
	b.all, b.err = all, nil
	b.mu.Unlock()
	b.wake()
}

func (b *podState) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// wake lets all who wait look again.
func (b *podState) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}
