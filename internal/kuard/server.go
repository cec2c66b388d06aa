// Package kuard is the demo application that a port forward is pointed at: one web page that shows the inside of the pod serving it.
// It must not know how a visitor gets there: nothing of forwarding, namespaces or Kubernetes is in it.
package kuard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// shutdownGrace is how long a request may go on after the server was told to end.
const shutdownGrace = 500 * time.Millisecond

// maxBody is the longest request body taken, in bytes: every body here is a small JSON object.
const maxBody = 64 << 10

// Server is the demo application. The zero value serves with the defaults.
// Set the fields before the first call of a method, and do not copy it afterwards.
// Its methods are safe for concurrent use.
type Server struct {
	// Version is shown on the page; "" shows as "dev".
	Version string
	// ResolvConf is the resolv.conf(5) that DNS queries follow; "" means /etc/resolv.conf.
	// It is read anew for each query.
	ResolvConf string
	// DNSPort is the port of the servers that ResolvConf names, which has no words for ports; "" means 53.
	DNSPort string
	// Root is the directory shown under /fs/, as if it were / itself: no link leads out of it. "" means /.
	Root string
	// MemLimit is how many bytes the page may allocate in all; 0 means 1 GiB.
	MemLimit int64
	// Log takes one debug record per request, and net/http's own complaints; nil discards them.
	Log *slog.Logger

	once    sync.Once
	handler http.Handler
	started time.Time

	memory    memory
	liveness  probe
	readiness probe
	keygen    keygen
}

// Handler returns the application as a handler, always the same one.
// Who serves it without Serve calls Close when done.
func (s *Server) Handler() http.Handler {
	s.once.Do(func() {
		s.started = time.Now()
		s.memory.limit = s.MemLimit
		s.handler = s.chain(s.routes())
	})
	return s.handler
}

// Close stops key generation, waits for its end, and frees the memory that was allocated.
// The Server can be used again afterwards. It always returns nil.
func (s *Server) Close() error {
	s.keygen.stop()
	s.memory.clear()
	return nil
}

// Serve answers on ln until ctx ends, and returns nil then, or the error that ended it before.
// It owns ln and closes it. When it returns, its connections and goroutines are gone, and Close was called.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer s.Close()
	var conns sync.WaitGroup
	srv := s.httpServer(ctx, &conns)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()

	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		s.shutdown(srv)
		err = <-served
	}
	srv.Close()
	conns.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve kuard on %s: %w", ln.Addr(), err)
}

// httpServer returns the server for one Serve; conns counts its connections until their goroutines end.
// There is no WriteTimeout: a file takes as long as the route to the visitor needs.
func (s *Server) httpServer(ctx context.Context, conns *sync.WaitGroup) *http.Server {
	return &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log().Handler(), slog.LevelWarn),
		BaseContext: func(ln net.Listener) context.Context {
			return context.WithValue(ctx, listenKey{}, ln.Addr())
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
}

// shutdown lets requests end for a moment; the context of all of them is done already.
func (s *Server) shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		s.log().Debug("kuard: requests cut off at the end", "err", err)
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// listenKey finds the listener's address, a net.Addr, in a request's context.
type listenKey struct{}

// routes maps every endpoint. The method in a pattern makes net/http answer 405 to the others.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.showIndex)
	mux.HandleFunc("GET /static/{name}", serveStatic)
	mux.Handle("GET /env/api", answer(s.showEnv))
	mux.Handle("GET /mem/api", answer(s.memory.show))
	mux.Handle("POST /mem/api/alloc", answer(s.memory.serveAlloc))
	mux.Handle("POST /mem/api/clear", answer(s.memory.serveClear))
	s.routeProbe(mux, "/healthy", &s.liveness)
	s.routeProbe(mux, "/ready", &s.readiness)
	mux.Handle("POST /dns/api", answer(s.queryDNS))
	mux.HandleFunc("GET /fs/{path...}", s.browse)
	mux.Handle("GET /keygen", answer(s.keygen.show))
	mux.Handle("PUT /keygen", answer(s.keygen.serveSet))
	mux.Handle("POST /keygen", answer(s.keygen.serveSet))
	return mux
}

func (s *Server) routeProbe(mux *http.ServeMux, path string, p *probe) {
	mux.HandleFunc("GET "+path, p.serveAsk)
	mux.Handle("GET "+path+"/api", answer(p.show))
	mux.Handle("PUT "+path+"/api", answer(p.serveSet))
	mux.Handle("POST "+path+"/api", answer(p.serveSet))
}

// chain puts around the routes what holds for all of them.
func (s *Server) chain(mux *http.ServeMux) http.Handler {
	// A page elsewhere must not press this page's buttons in the visitor's browser.
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(denyCrossOrigin))
	m := newMetrics(s.log())
	mux.Handle("GET /metrics", m.handler())
	return m.count(harden(sameOrigin.Handler(mux)))
}

// harden limits what a request may send, and what a browser may do with the reply.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}
