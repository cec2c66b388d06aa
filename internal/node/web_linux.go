package node

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// requestTime is how long a request may take to arrive, body and all, its
	// answer to leave, and an idle connection to stay.
	requestTime = 10 * time.Second
	// maxHeader is how large a request's header may be, in bytes.
	maxHeader = 64 << 10
	// maxPending is how many connections may be open that have not become
	// tunnels. For one more the oldest is closed.
	maxPending = 500
)

// web is an HTTP server that withstands slow and half-open connections by the thousand.
// Its limits end for a connection that is hijacked.
type web struct {
	http.Server
	listener net.Listener

	mu      sync.Mutex
	pending map[net.Conn]*pendingConn
}

// pendingConn is the state of a connection that has not become a tunnel.
type pendingConn struct {
	since time.Time
	busy  bool // a request has come, which is being answered
}

func newWeb(l net.Listener, handler http.Handler, log *slog.Logger) *web {
	w := &web{listener: l, pending: map[net.Conn]*pendingConn{}}
	w.Handler = handler
	w.limitTime(requestTime)
	w.MaxHeaderBytes = maxHeader
	w.ConnState = w.onState
	w.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	return w
}

// limitTime bounds each part of a request's life.
func (w *web) limitTime(d time.Duration) {
	w.ReadHeaderTimeout, w.ReadTimeout, w.WriteTimeout, w.IdleTimeout = d, d, d, d
}

// start serves as one of a process' components.
func (w *web) start(c *components, what string) {
	c.owns(w)
	c.run(what, func() error { return w.Serve(w.listener) })
}

// onState keeps the number of connections that are not tunnels within its bound.
func (w *web) onState(c net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(w.pending, c)
		return
	case http.StateNew:
		if len(w.pending) >= maxPending {
			w.makeRoom()
		}
		w.pending[c] = &pendingConn{since: time.Now()}
		return
	}
	if a := w.pending[c]; a != nil { // or it has been closed to make room
		a.since, a.busy = time.Now(), state == http.StateActive
	}
}

// makeRoom closes the connection that has sent no request for longest, or, if all have
// sent one, that whose request is oldest; w.mu is held.
func (w *web) makeRoom() {
	var oldest net.Conn
	for c, a := range w.pending {
		if old := w.pending[oldest]; old == nil || a.before(old) {
			oldest = c
		}
	}
	delete(w.pending, oldest)
	_ = oldest.Close()
}

// before says whether a is closed before b is.
func (a *pendingConn) before(b *pendingConn) bool {
	if a.busy != b.busy {
		return b.busy
	}
	return a.since.Before(b.since)
}
