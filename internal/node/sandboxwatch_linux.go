package node

import (
	"context"
	"sync"
	"time"
)

// watchInterval is between two checks whether the sandboxes still exist.
const watchInterval = time.Second

// sandboxWatch notices when sandboxes that tunnels lead to are removed. The runtime tells
// only the kubelet, which makes another one for the same pod. The zero value is ready to
// use; without sandboxes no timer runs.
type sandboxWatch struct {
	mu    sync.Mutex
	all   map[netnsRef]*watchedSandbox
	timer *time.Timer // runs check; nil without sandboxes
}

type watchedSandbox struct {
	exists context.Context // ends when it is gone
	end    context.CancelFunc
	users  int
}

// add returns a context that ends when the sandbox is gone. The caller calls remove
// when it needs that no longer.
func (w *sandboxWatch) add(ref netnsRef) (exists context.Context, remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.all[ref]
	if s == nil {
		s = &watchedSandbox{}
		s.exists, s.end = context.WithCancel(context.Background())
		if w.all == nil {
			w.all = map[netnsRef]*watchedSandbox{}
		}
		w.all[ref] = s
	}
	s.users++
	if w.timer == nil {
		w.timer = time.AfterFunc(watchInterval, w.check)
	}
	return s.exists, sync.OnceFunc(func() { w.remove(ref, s) })
}

func (w *sandboxWatch) remove(ref netnsRef, s *watchedSandbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	s.end() // nobody listens any more
	if w.all[ref] == s {
		delete(w.all, ref)
	}
	if len(w.all) == 0 && w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// check ends the contexts of the sandboxes that are gone.
func (w *sandboxWatch) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ref, s := range w.all {
		if ref.gone() {
			s.end()
			delete(w.all, ref)
		}
	}
	if w.timer == nil {
		return
	}
	if len(w.all) == 0 {
		w.timer = nil
		return
	}
	w.timer.Reset(watchInterval)
}
