package kube

import (
	"maps"
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

// choice decides which pod a connection goes to. Its methods are safe to call at
// the same time.
type choice struct {
	policy policy
	expiry time.Duration // of stay: forget the pod this long after the last connection; 0 for never

	mu      sync.Mutex
	current types.UID // of stay and pin
	used    time.Time // when current was chosen last
	turn    int       // of spread
	shunned map[types.UID]time.Time
}

// next chooses a pod for a new connection; false if none is ready.
func (c *choice) next(all []endpoint) (endpoint, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy == spread {
		able := c.able(all)
		if len(able) == 0 {
			return endpoint{}, false
		}
		c.turn++
		return able[c.turn%len(able)], true
	}
	if c.expiry > 0 && time.Since(c.used) > c.expiry {
		c.current = ""
	}
	c.used = time.Now()
	return c.settle(all)
}

// settle returns the pod to stay with, choosing another if it must; mu is held.
func (c *choice) settle(all []endpoint) (endpoint, bool) {
	able := c.able(all)
	if c.policy == pin {
		able = all
	}
	for _, e := range able {
		if e.uid == c.current && !e.leaving {
			return e, e.ready
		}
	}
	able = c.able(all)
	if len(able) == 0 {
		return endpoint{}, false
	}
	c.current = able[0].uid
	return able[0], true
}

// probable are pods that next is likely to choose, best first, at most max of them.
func (c *choice) probable(all []endpoint, max int, used func(types.UID) bool) []endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy != spread {
		if e, ok := c.settle(all); ok {
			return []endpoint{e}
		}
		return nil
	}
	able := c.able(all)
	var best []endpoint
	for _, e := range able {
		if used(e.uid) && len(best) < max {
			best = append(best, e)
		}
	}
	if len(best) == 0 && len(able) > 0 {
		best = able[:1]
	}
	return best
}

// able are the pods that are ready, without those that are shunned if there are
// others; mu is held.
func (c *choice) able(all []endpoint) []endpoint {
	var ready, able []endpoint
	for _, e := range all {
		if !e.ready {
			continue
		}
		ready = append(ready, e)
		if time.Since(c.shunned[e.uid]) > shunTime {
			able = append(able, e)
		}
	}
	if len(able) == 0 {
		return ready
	}
	return able
}

// shun passes a pod over for a while.
func (c *choice) shun(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shunned == nil {
		c.shunned = map[types.UID]time.Time{}
	}
	maps.DeleteFunc(c.shunned, func(_ types.UID, since time.Time) bool { return time.Since(since) > shunTime })
	c.shunned[uid] = time.Now()
}
