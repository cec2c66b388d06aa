package node

import (
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// headerTime is how long a request may take to arrive, with its header, and
	// an idle connection to stay.
	headerTime = 10 * time.Second
	// maxHeader is how large its header may be, in octets.
	maxHeader = 64 << 10
	// maxArriving is how many connections may be open that have not become
	// tunnels. One more is closed at once.
	maxArriving = 500
)

// web is an HTTP server that half-open connections by the thousand do not hurt.
type web struct {
	http.Server
	listener net.Listener
	arriving atomic.Int64
}

func newWeb(l net.Listener, handler http.Handler, log *slog.Logger) *web {
	w := &web{listener: l}
	w.Handler = handler
	w.ReadHeaderTimeout, w.IdleTimeout, w.MaxHeaderBytes = headerTime, headerTime, maxHeader
	w.ConnState = w.count
	w.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	return w
}

func (w *web) serve() error { return w.Serve(w.listener) }

func (w *web) addr() string { return w.listener.Addr().String() }

// count keeps the number of connections that are not tunnels within its bound.
func (w *web) count(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if w.arriving.Add(1) > maxArriving {
			_ = c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		w.arriving.Add(-1)
	}
}
