package portforward

import (
	"sync"
	"time"
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
	all  map[*upgradeRequest]bool
	pods map[string]int // of all, by PendingUpgrade.Pod
}

// admit counts a tunnel in. The error is ErrTooManyTunnels.
func (t *serverTunnels) admit(r *upgradeRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all, t.pods = map[*upgradeRequest]bool{}, map[string]int{}
	}
	pod := r.pending.Pod
	podFull, full := t.pods[pod] >= t.maxPerPod, len(t.all) >= t.max
	if podFull || full {
		out := t.longestIdle(func(o *upgradeRequest) bool { return !podFull || o.pending.Pod == pod })
		if out == nil && !podFull {
			out = t.newestOfMost(t.pods[pod] + 1)
		}
		if out == nil {
			return ErrTooManyTunnels
		}
		t.remove(out)
		go out.tunnel.Close()
	}
	t.all[r] = true
	t.pods[pod]++
	return nil
}

// longestIdle returns the tunnel without connections that has had none for longest, of
// those that may be it, or nil.
func (t *serverTunnels) longestIdle(may func(*upgradeRequest) bool) (found *upgradeRequest) {
	var since time.Time
	for r := range t.all {
		if r.tunnel == nil || !may(r) {
			continue
		}
		if at, idle := r.tunnel.IdleSince(); idle && (found == nil || at.Before(since)) {
			found, since = r, at
		}
	}
	return found
}

// newestOfMost returns the newest tunnel of the pod that has most of them, or nil if no
// pod has more than so many.
func (t *serverTunnels) newestOfMost(than int) (found *upgradeRequest) {
	most := ""
	for pod, n := range t.pods {
		if n > max(than, t.pods[most]) {
			most = pod
		}
	}
	for r := range t.all {
		if most != "" && r.pending.Pod == most && r.tunnel != nil && (found == nil || r.opened.After(found.opened)) {
			found = r
		}
	}
	return found
}

// open notes the tunnel that was opened for a request.
func (t *serverTunnels) open(r *upgradeRequest, tunnel serverTunnel) {
	t.mu.Lock()
	r.tunnel, r.opened = tunnel, time.Now()
	removed := !t.all[r]
	t.mu.Unlock()
	if removed {
		go tunnel.Close()
	}
}

func (t *serverTunnels) leave(r *upgradeRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(r)
}

// remove counts a tunnel out, if it has not been; t.mu is held.
func (t *serverTunnels) remove(r *upgradeRequest) {
	if !t.all[r] {
		return
	}
	delete(t.all, r)
	if t.pods[r.pending.Pod]--; t.pods[r.pending.Pod] == 0 {
		delete(t.pods, r.pending.Pod)
	}
}

// Load is what a Server has to do.
type Load struct {
	Tunnels int
	// Memory are the bytes that are charged to Server.Memory.
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
