package portforward

import (
	"sync"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

const (
	defaultServerMemory  = 256 << 20
	defaultServerTunnels = 512
	defaultPodTunnels    = 128
)

// serverTunnels are the tunnels of a Server, of which there may be so many, and so many
// to one pod. When there is no room, one that has been idle gives way; if there are too
// many in all and none is idle, the pod with most gives up its newest.
type serverTunnels struct {
	max, maxPerPod int

	mu   sync.Mutex
	all  map[*caller]bool
	pods map[string]int // of all, by Offer.Pod
}

// admit counts a tunnel in. The error is ErrTooManyTunnels.
func (t *serverTunnels) admit(c *caller) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all, t.pods = map[*caller]bool{}, map[string]int{}
	}
	pod := c.offer.Pod
	podFull, full := t.pods[pod] >= t.maxPerPod, len(t.all) >= t.max
	if podFull || full {
		out := t.longestIdle(func(o *caller) bool { return !podFull || o.offer.Pod == pod })
		if out == nil && !podFull {
			out = t.newestOfMost(t.pods[pod] + 1)
		}
		if out == nil {
			return ErrTooManyTunnels
		}
		t.remove(out)
		go out.tunnel.end()
	}
	t.all[c] = true
	t.pods[pod]++
	return nil
}

// longestIdle returns the tunnel without connections that has had none for longest, of
// those that may be it, or nil.
func (t *serverTunnels) longestIdle(may func(*caller) bool) (found *caller) {
	var since time.Time
	for c := range t.all {
		if c.tunnel == nil || !may(c) {
			continue
		}
		if at, idle := c.tunnel.idleSince(); idle && (found == nil || at.Before(since)) {
			found, since = c, at
		}
	}
	return found
}

// newestOfMost returns the newest tunnel of the pod that has most of them, or nil if no
// pod has more than so many.
func (t *serverTunnels) newestOfMost(than int) (found *caller) {
	most := ""
	for pod, n := range t.pods {
		if n > max(than, t.pods[most]) {
			most = pod
		}
	}
	for c := range t.all {
		if most != "" && c.offer.Pod == most && c.tunnel != nil && (found == nil || c.opened.After(found.opened)) {
			found = c
		}
	}
	return found
}

// open notes the tunnel that was opened for a caller.
func (t *serverTunnels) open(c *caller, tunnel served) {
	t.mu.Lock()
	c.tunnel, c.opened = tunnel, time.Now()
	removed := !t.all[c]
	t.mu.Unlock()
	if removed {
		go tunnel.end()
	}
}

func (t *serverTunnels) leave(c *caller) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(c)
}

// remove counts a tunnel out, if it has not been; t.mu is held.
func (t *serverTunnels) remove(c *caller) {
	if !t.all[c] {
		return
	}
	delete(t.all, c)
	if t.pods[c.offer.Pod]--; t.pods[c.offer.Pod] == 0 {
		delete(t.pods, c.offer.Pod)
	}
}

// Load is what a Server has to do.
type Load struct {
	Tunnels int
	// Memory are the octets that are charged to Server.Memory.
	Memory int
}

// Load says what there is to do just now.
func (s *Server) Load() Load {
	s.init()
	s.tunnels.mu.Lock()
	n := len(s.tunnels.all)
	s.tunnels.mu.Unlock()
	return Load{Tunnels: n, Memory: s.memory.Held()}
}

func (s *Server) initLimits() {
	s.tunnels.max = orDefault(s.MaxTunnels, defaultServerTunnels)
	s.tunnels.maxPerPod = orDefault(s.MaxPodTunnels, defaultPodTunnels)
	s.memory = &spdy.Budget{Size: orDefault(s.Memory, defaultServerMemory), MaxShares: s.tunnels.max}
}
