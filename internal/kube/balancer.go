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
	// sticky keeps connections with one pod while it is ready.
	sticky policy = iota
	// pinnedToPod keeps them with one pod while it exists.
	pinnedToPod
	// roundRobin spreads them over all ready pods, in turn.
	roundRobin
)

// penaltyTime is for how long a pod is avoided that could not be reached although
// the API server says it is ready. Its node may be gone, which the server notices
// within a minute.
const penaltyTime = 5 * time.Second

// balancer decides which pod a connection goes to, among those that have the port.
// Its methods are safe to call at the same time.
type balancer struct {
	mu        sync.Mutex
	policy    policy
	expiry    time.Duration           // of sticky: leave the pod this long after the last connection; 0 means never
	held      map[portRef]*hold       // of sticky and pinnedToPod
	turn      map[portRef]uint        // of roundRobin
	penalized map[types.UID]time.Time // since when
}

// hold is the pod that connections to a port stay with.
type hold struct {
	uid    types.UID
	used   time.Time // when it was picked last
	proven bool      // it has been reached
}

func newBalancer(p policy, expiry time.Duration) *balancer {
	return &balancer{policy: p, expiry: expiry, held: map[portRef]*hold{}, turn: map[portRef]uint{}, penalized: map[types.UID]time.Time{}}
}

// set changes how connections are distributed from now on.
func (b *balancer) set(p policy, expiry time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.policy, b.expiry = p, expiry
}

// spreads says whether connections go to several pods.
func (b *balancer) spreads() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policy == roundRobin
}

// pick chooses the pod for a new connection to a port; false if no candidate is
// ready. Candidates have the port, and are in order of preference.
func (b *balancer) pick(candidates []endpoint, ref portRef) (endpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.policy == roundRobin {
		eligible := b.eligible(candidates)
		if len(eligible) == 0 {
			return endpoint{}, false
		}
		b.turn[ref]++
		return eligible[b.turn[ref]%uint(len(eligible))], true
	}
	if h := b.held[ref]; h != nil && b.expiry > 0 && time.Since(h.used) > b.expiry {
		delete(b.held, ref)
	}
	e, ok := b.stay(candidates, ref)
	if h := b.held[ref]; h != nil {
		h.used = time.Now()
	}
	return e, ok
}

// stay returns the pod to stay with. If another has to be chosen, one is preferred
// that connections to another port stay with already. b.mu is held.
func (b *balancer) stay(candidates []endpoint, ref portRef) (endpoint, bool) {
	eligible := b.eligible(candidates)
	keep := eligible
	if b.policy == pinnedToPod {
		keep = candidates
	}
	for _, e := range keep {
		if h := b.held[ref]; h != nil && e.uid == h.uid && !e.terminating {
			return e, e.ready
		}
	}
	if len(eligible) == 0 {
		return endpoint{}, false
	}
	held := func(e endpoint) bool {
		for _, h := range b.held {
			if h.uid == e.uid {
				return true
			}
		}
		return false
	}
	best := eligible[max(0, slices.IndexFunc(eligible, held))]
	b.held[ref] = &hold{uid: best.uid, used: time.Now()}
	return best, true
}

// likely are up to most pods that pick is likely to choose next, best first. Where
// connections are spread, those are the ones that have tunnels already, or else one.
func (b *balancer) likely(candidates []endpoint, ref portRef, most int, hasTunnel func(types.UID) bool) (best []endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.policy != roundRobin {
		if e, ok := b.stay(candidates, ref); ok {
			return []endpoint{e}
		}
		return nil
	}
	eligible := b.eligible(candidates)
	for _, e := range eligible {
		if hasTunnel(e.uid) && len(best) < most {
			best = append(best, e)
		}
	}
	if len(best) == 0 {
		best = eligible[:min(1, len(eligible))]
	}
	return best
}

// eligible are the pods that are ready. Those that are penalized are left out if there
// are others, and so are those that terminate. b.mu is held.
func (b *balancer) eligible(all []endpoint) (best []endpoint) {
	most := 0
	for _, e := range all {
		rank := 3
		switch {
		case !e.ready:
			continue
		case time.Since(b.penalized[e.uid]) <= penaltyTime:
			rank = 1
		case e.terminating:
			rank = 2
		}
		if rank > most {
			most, best = rank, nil
		}
		if rank == most {
			best = append(best, e)
		}
	}
	return best
}

// confirm notes that a pod was reached. From then on penalize does not end a hold on it.
func (b *balancer) confirm(uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.held {
		if h.uid == uid {
			h.proven = true
		}
	}
}

// penalize has a pod avoided for a while. Connections do not stay with it either if
// it is gone or was never reached.
func (b *balancer) penalize(uid types.UID, gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.held, func(_ portRef, h *hold) bool { return h.uid == uid && (gone || !h.proven) })
	maps.DeleteFunc(b.penalized, func(_ types.UID, since time.Time) bool { return time.Since(since) > penaltyTime })
	b.penalized[uid] = time.Now()
}
