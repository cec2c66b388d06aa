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
	// sticky: with one pod while it is ready.
	sticky policy = iota
	// pinned: with one pod while it is there at all.
	pinned
	// roundRobin: over all ready pods, in turn.
	roundRobin
)

// penaltyTime is for how long a pod is passed over that could not be reached while
// the API server said it is ready: its node may be gone, of which the server
// learns within a minute.
const penaltyTime = 5 * time.Second

// choice decides which pod a connection goes to, among those that have the port.
// Its methods are safe to call at the same time.
type balancer struct {
	mu        sync.Mutex
	policy    policy
	expiry    time.Duration    // of sticky: let go of the pod this long after the last connection; 0 for never
	held      map[portRef]hold // of sticky and pinned
	turn      map[portRef]uint // of roundRobin
	penalized map[types.UID]time.Time
}

// hold is the pod that connections to a port stay with.
type hold struct {
	uid    types.UID
	used   time.Time // when it was chosen last
	proven bool      // it was reached
}

func newBalancer(p policy, expiry time.Duration) *balancer {
	return &balancer{policy: p, expiry: expiry, held: map[portRef]hold{}, turn: map[portRef]uint{}, penalized: map[types.UID]time.Time{}}
}

// set changes how connections are distributed from now on.
func (c *balancer) set(p policy, expiry time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy, c.expiry = p, expiry
}

// spreads says whether connections go to several pods.
func (c *balancer) spreads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policy == roundRobin
}

// next chooses a pod for a new connection to a port, of those that have it, the
// best first; false if none is ready.
func (c *balancer) next(having []endpoint, to portRef) (endpoint, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy == roundRobin {
		eligible := c.eligible(having)
		if len(eligible) == 0 {
			return endpoint{}, false
		}
		c.turn[to]++
		return eligible[c.turn[to]%uint(len(eligible))], true
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
func (c *balancer) settle(having []endpoint, to portRef) (endpoint, bool) {
	eligible := c.eligible(having)
	candidates := eligible
	if c.policy == pinned {
		candidates = having
	}
	for _, e := range candidates {
		if e.uid == c.held[to].uid && !e.leaving {
			return e, e.ready
		}
	}
	if len(eligible) == 0 {
		return endpoint{}, false
	}
	best := max(0, slices.IndexFunc(eligible, c.holds))
	c.held[to] = hold{uid: eligible[best].uid, used: time.Now()}
	return eligible[best], true
}

// holds says whether the connections to some port stay with a pod; mu is held.
func (c *balancer) holds(e endpoint) bool {
	for _, h := range c.held {
		if h.uid == e.uid {
			return true
		}
	}
	return false
}

// probable are pods that next is likely to choose, best first, at most most of them.
func (c *balancer) probable(having []endpoint, to portRef, most int, used func(types.UID) bool) []endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy != roundRobin {
		if e, ok := c.settle(having, to); ok {
			return []endpoint{e}
		}
		return nil
	}
	eligible := c.eligible(having)
	var best []endpoint
	for _, e := range eligible {
		if used(e.uid) && len(best) < most {
			best = append(best, e)
		}
	}
	if len(best) == 0 && len(eligible) > 0 {
		best = eligible[:1]
	}
	return best
}

// eligible are the pods that are ready: without those that are told to end or are
// penalized if there are others. mu is held.
func (c *balancer) eligible(all []endpoint) []endpoint {
	var ready, reachable, eligible []endpoint
	for _, e := range all {
		if !e.ready {
			continue
		}
		ready = append(ready, e)
		if time.Since(c.penalized[e.uid]) <= penaltyTime {
			continue
		}
		reachable = append(reachable, e)
		if !e.leaving {
			eligible = append(eligible, e)
		}
	}
	switch {
	case len(eligible) > 0:
		return eligible
	case len(reachable) > 0:
		return reachable
	}
	return ready
}

// prove notes that a pod was reached: from then on a pinned port stays with it.
func (c *balancer) confirm(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for to, h := range c.held {
		if h.uid == uid && !h.proven {
			h.proven = true
			c.held[to] = h
		}
	}
}

// penalize passes a pod over for a while. One that was never reached, or is gone, is
// not stayed with either.
func (c *balancer) penalize(uid types.UID, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.held, func(_ portRef, h hold) bool { return h.uid == uid && (gone || !h.proven) })
	maps.DeleteFunc(c.penalized, func(_ types.UID, since time.Time) bool { return time.Since(since) > penaltyTime })
	c.penalized[uid] = time.Now()
}
