package spdy

import (
	"slices"
	"sync"
)

// Budget bounds the bytes that the tunnels of a server may hold unread together.
// What is charged is what a peer may send before it has to wait: a window is charged when it is
// granted, since a peer cannot be made to give one back. Without flow control it is the memory
// in use.
//
// A quarter is set aside, in equal parts, for each of MaxShares. Of the rest a tunnel
// may have some multiple of what is left free, so that the more tunnels hold, the less
// each can get, and those that come always find something (dynamic thresholds, as
// Choudhury and Hahne described them for the buffers of switches).
type Budget struct {
	// Size is the number of bytes.
	Size int
	// MaxShares is how many tunnels there can be at once.
	MaxShares int

	mu      sync.Mutex
	held    int // by all shares
	common  int // the part of held that is beyond what is set aside
	waiting []*waiter
	serving bool // serveWaiting is about to run
}

// NewShare returns the share of a new tunnel.
func (b *Budget) NewShare() *Share { return &Share{budget: b} }

// Held is how many bytes are charged.
func (b *Budget) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// Share is what one tunnel has of a Budget. That of a nil Share, or without a Budget,
// is without bound.
type Share struct {
	budget *Budget
	held   int // guarded by budget.mu
}

// urgency is how much of what is free a Share may hold, in halves.
type urgency int

const (
	// speed is for what makes transfers faster: a third of all at most.
	speed urgency = 1
	// need is for what lets connections work at all: four fifths at most.
	need urgency = 8
)

// waiter waits for a Share to have room; the budget's mutex guards it.
type waiter struct {
	wake    func() // called without the mutex
	share   *Share
	n       int
	queued  bool
	granted bool // n is charged
}

// Reserve charges n bytes for what belongs to no stream, if there is room, until Release.
func (s *Share) Reserve(n int) bool { return s.take(n, need) }

func (s *Share) unbounded() bool { return s == nil || s.budget == nil }

// take charges n bytes, if there is room.
func (s *Share) take(n int, u urgency) bool {
	if s.unbounded() {
		return true
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if !s.fits(n, u) {
		return false
	}
	s.charge(n)
	return true
}

// takeOrWait is take of what is needed. If there is no room, w is woken once there is, and calls
// again.
func (s *Share) takeOrWait(n int, w *waiter) bool {
	if s.unbounded() {
		return true
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	switch {
	case w.granted:
		w.granted = false
		return true
	case w.queued:
		return false
	case s.fits(n, need):
		s.charge(n)
		return true
	}
	w.share, w.n, w.queued = s, n, true
	s.budget.waiting = append(s.budget.waiting, w)
	return false
}

// giveUp ends the waiting of a waiter.
func (s *Share) giveUp(w *waiter) {
	if s.unbounded() {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	if w.queued {
		w.queued = false
		s.budget.waiting = slices.DeleteFunc(s.budget.waiting, func(o *waiter) bool { return o == w })
	}
	if w.granted {
		w.granted = false
		s.charge(-w.n)
		s.budget.serve()
	}
}

// Release gives n bytes back.
func (s *Share) Release(n int) {
	if n == 0 || s.unbounded() {
		return
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.charge(-n)
	s.budget.serve()
}

// relaxed reports whether the tunnel holds so little that it need not save.
func (s *Share) relaxed() bool {
	if s.unbounded() {
		return true
	}
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.beyond(0)*8 <= s.budget.free()
}

// own is what is set aside for each Share.
func (b *Budget) own() int { return b.Size / 4 / max(b.MaxShares, 1) }

// free is what is left of what is not set aside; the mutex is held.
func (b *Budget) free() int { return b.Size - b.Size/4 - b.common }

// beyond is how much of the common part the Share has with n bytes more.
func (s *Share) beyond(n int) int { return max(0, s.held+n-s.budget.own()) }

// fits reports whether the Share may have n bytes more; the mutex is held.
func (s *Share) fits(n int, u urgency) bool {
	after := s.beyond(n)
	free := s.budget.free() - (after - s.beyond(0))
	return after == 0 || free >= 0 && after <= free*int(u)/2
}

// charge adds n bytes; the mutex is held.
func (s *Share) charge(n int) {
	s.budget.common += s.beyond(n) - s.beyond(0)
	s.budget.held += n
	s.held += n
}

// serve starts serveWaiting, on a goroutine of its own: the caller may hold a lock that a waiter
// needs to wake up. The mutex is held.
func (b *Budget) serve() {
	if len(b.waiting) > 0 && !b.serving {
		b.serving = true
		go b.serveWaiting()
	}
}

// serveWaiting charges what fits by now, first come first served, and wakes its waiters.
func (b *Budget) serveWaiting() {
	b.mu.Lock()
	b.serving = false
	var served []*waiter
	b.waiting = slices.DeleteFunc(b.waiting, func(w *waiter) bool {
		if !w.share.fits(w.n, need) {
			return false
		}
		w.share.charge(w.n)
		w.queued, w.granted = false, true
		served = append(served, w)
		return true
	})
	b.mu.Unlock()
	for _, w := range served {
		w.wake()
	}
}
