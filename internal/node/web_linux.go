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
	// maxHeader is how large a request's header may be, in octets.
	maxHeader = 64 << 10
	// maxArriving is how many connections may be open that have not become
	// tunnels. For one more the oldest gives way.
	maxArriving = 500
)

// web is an HTTP server that slow and half-open connections by the thousand do not
// hurt. Connections that are taken over have left its limits behind.
type web struct {
	http.Server
	listener net.Listener

	mu       sync.Mutex
	arriving map[net.Conn]*arrival // those that have not become tunnels
}

// arrival is what a connection does that has not become a tunnel.
type arrival struct {
	since time.Time
	busy  bool // a request has come, which is being answered
}

func newWeb(l net.Listener, handler http.Handler, log *slog.Logger) *web {
	w := &web{listener: l, arriving: map[net.Conn]*arrival{}}
	w.Handler = handler
	w.limitTime(requestTime)
	w.MaxHeaderBytes = maxHeader
	w.ConnState = w.note
	w.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	return w
}

// limitTime bounds each part of a request's life.
func (w *web) limitTime(d time.Duration) {
	w.ReadHeaderTimeout, w.ReadTimeout, w.WriteTimeout, w.IdleTimeout = d, d, d, d
}

func (w *web) serve() error { return w.Serve(w.listener) }

func (w *web) addr() string { return w.listener.Addr().String() }

// note keeps the number of connections that are not tunnels within its bound.
func (w *web) note(c net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(w.arriving, c)
		return
	case http.StateNew:
		if len(w.arriving) >= maxArriving {
			w.makeRoom()
		}
		w.arriving[c] = &arrival{since: time.Now()}
		return
	}
	if a := w.arriving[c]; a != nil { // or it has been closed to make room
		a.since, a.busy = time.Now(), state == http.StateActive
	}
}

// makeRoom closes the connection that has brought no request for longest, or, if
// all have one, that whose request is oldest; w.mu is held.
func (w *web) makeRoom() {
	var oldest net.Conn
	for c, a := range w.arriving {
		if old := w.arriving[oldest]; old == nil || a.before(old) {
			oldest = c
		}
	}
	delete(w.arriving, oldest)
	_ = oldest.Close()
}

// before says whether a gives way before b does.
func (a *arrival) before(b *arrival) bool {
	if a.busy != b.busy {
		return b.busy
	}
	return a.since.Before(b.since)
}
