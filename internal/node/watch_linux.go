package node

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchPause is between two looks at whether the sandboxes are still there.
const watchPause = time.Second

// watch looks after the sandboxes that tunnels lead to. The runtime takes a sandbox down
// without a word to anybody but the kubelet, which makes another one for the same pod. The
// zero value is ready to use; without sandboxes no timer runs.
type watch struct {
	mu    sync.Mutex
	all   map[place]*watched
	timer *time.Timer // runs look; nil without sandboxes
}

// watched is one of them.
type watched struct {
	there context.Context // ends when it is gone
	gone  context.CancelFunc
	users int
}

// over returns a context that ends when the sandbox at p is gone. The caller calls leave
// once it does not care any more.
func (w *watch) over(p place) (there context.Context, leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.all[p]
	if s == nil {
		s = &watched{}
		s.there, s.gone = context.WithCancel(context.Background())
		if w.all == nil {
			w.all = map[place]*watched{}
		}
		w.all[p] = s
	}
	s.users++
	if w.timer == nil {
		w.timer = time.AfterFunc(watchPause, w.look)
	}
	return s.there, sync.OnceFunc(func() { w.leave(p, s) })
}

func (w *watch) leave(p place, s *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	s.gone() // nobody listens
	if w.all[p] == s {
		delete(w.all, p)
	}
	if len(w.all) == 0 && w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// look tells of those that are gone.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, s := range w.all {
		if p.left() {
			s.gone()
			delete(w.all, p)
		}
	}
	if w.timer == nil {
		return
	}
	if len(w.all) == 0 {
		w.timer = nil
		return
	}
	w.timer.Reset(watchPause)
}

// left says whether nothing is left of a sandbox by which its namespace could be
// entered. What cannot be told counts as there.
func (p place) left() bool {
	if p.path != "" && isNamespace(p.path) {
		return false
	}
	if p.pid == 0 {
		return p.path != ""
	}
	started, err := startTime(p.pid)
	return errors.Is(err, os.ErrNotExist) || err == nil && started != p.started
}

// isNamespace says whether a file stands for a namespace: when that is taken down, the
// file may stay for a moment, without what was mounted on it.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	switch err := unix.Statfs(path, &fs); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false
	case err != nil:
		return true
	}
	return fs.Type == unix.NSFS_MAGIC || fs.Type == unix.PROC_SUPER_MAGIC
}
