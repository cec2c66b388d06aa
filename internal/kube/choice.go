package kube

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// policy is how connections are distributed over pods.
type policy int

const (
	// stay: with one pod while it is ready.
	stay policy = iota
	// pin: with one pod while it is there at all.
	pin
	// spread: over all ready pods, in turn.
	spread
)

// shunTime is for how long a pod is passed over that could not be reached while
// the API server said it is ready: its node may be gone, of which the server
// learns within a minute.
const shunTime = 5 * time.Second

// choice decides which pod a connection goes to, among those that have the port.
// Its methods are safe to call at the same time.
type choice struct {
	mu      sync.Mutex
	policy  policy
	expiry  time.Duration // of stay: let go of the pod this long after the last connection; 0 for never
	held    map[ask]hold  // of stay and pin
	turn    map[ask]uint  // of spread
	shunned map[types.UID]time.Time
}

// hold is the pod that connections to a port stay with.
type hold struct {
	uid    types.UID
	used   time.Time // when it was chosen last
	proven bool      // it was reached
}

func newChoice(p policy, expiry time.Duration) *choice {
	return &choice{policy: p, expiry: expiry, held: map[ask]hold{}, turn: map[ask]uint{}, shunned: map[types.UID]time.Time{}}
}

// set changes how connections are distributed from now on.
func (c *choice) set(p policy, expiry time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy, c.expiry = p, expiry
}

// spreads says whether connections go to several pods.
func (c *choice) spreads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policy == spread
}

// next chooses a pod for a new connection to a port, of those that have it, the
// best first; false if none is ready.
func (c *choice) next(having []endpoint, to ask) (endpoint, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy == spread {
		able := c.able(having)
		if len(able) == 0 {
			return endpoint{}, false
		}
		c.turn[to]++
		return able[c.turn[to]%uint(len(able))], true
	}
	if c.expiry > 0 && time.Since(c.held[to].used) > c.expiry {
		delete(c.held, to)
	}
	e, ok := c.settle(having, to)
	if h, holds := c.held[to]; holds {
		h.used = time.Now()
		c.held[to] = h
	}
	return e, ok
}

// settle returns the pod to stay with, choosing another if it must: one that
// another port stays with already, if possible. mu is held.
func (c *choice) settle(having []endpoint, to ask) (endpoint, bool) {
	able := c.able(having)
	candidates := able
	if c.policy == pin {
		candidates = having
	}
	for _, e := range candidates {
		if e.uid == c.held[to].uid && !e.leaving {
			return e, e.ready
		}
	}
	if len(able) == 0 {
		return endpoint{}, false
	}
	best := max(0, slices.IndexFunc(able, c.holds))
	c.held[to] = hold{uid: able[best].uid, used: time.Now()}
	return able[best], true
}

// holds says whether the connections to some port stay with a pod; mu is held.
func (c *choice) holds(e endpoint) bool {
	for _, h := range c.held {
		if h.uid == e.uid {
			return true
		}
	}
	return false
}

// probable are pods that next is likely to choose, best first, at most most of them.
func (c *choice) probable(having []endpoint, to ask, most int, used func(types.UID) bool) []endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy != spread {
		if e, ok := c.settle(having, to); ok {
			return []endpoint{e}
		}
		return nil
	}
	able := c.able(having)
	var best []endpoint
	for _, e := range able {
		if used(e.uid) && len(best) < most {
			best = append(best, e)
		}
	}
	if len(best) == 0 && len(able) > 0 {
		best = able[:1]
	}
	return best
}

// able are the pods that are ready: without those that are told to end or are
// shunned if there are others. mu is held.
func (c *choice) able(all []endpoint) []endpoint {
	var ready, reachable, able []endpoint
	for _, e := range all {
		if !e.ready {
			continue
		}
		ready = append(ready, e)
		if time.Since(c.shunned[e.uid]) <= shunTime {
			continue
		}
		reachable = append(reachable, e)
		if !e.leaving {
			able = append(able, e)
		}
	}
	switch {
	case len(able) > 0:
		return able
	case len(reachable) > 0:
		return reachable
	}
	return ready
}

// prove notes that a pod was reached: from then on a pinned port stays with it.
func (c *choice) prove(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for to, h := range c.held {
		if h.uid == uid && !h.proven {
			h.proven = true
			c.held[to] = h
		}
	}
}

// shun passes a pod over for a while. One that was never reached, or is gone, is
// not stayed with either.
func (c *choice) shun(uid types.UID, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.held, func(_ ask, h hold) bool { return h.uid == uid && (gone || !h.proven) })
	maps.DeleteFunc(c.shunned, func(_ types.UID, since time.Time) bool { return time.Since(since) > shunTime })
	c.shunned[uid] = time.Now()
}
