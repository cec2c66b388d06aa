package portforward

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/tunnel"
)

// pathPrefix is where upgrades are answered; the token follows.
const pathPrefix = "/portforward/"

const (
	defaultTokenTime  = time.Minute
	defaultMaxPending = 1000
	defaultServerIdle = 4 * time.Hour
)

// Server is the node's end: it answers upgrades, for each of which a single-use token was
// handed out before, and connects the connections in their tunnels to ports. The zero value
// works; its methods are safe to call at the same time. Call Close in the end.
//
// It answers SPDY/3.1, the WebSocket that carries SPDY, and the older WebSocket
// forms v4.channel.k8s.io and v4.base64.channel.k8s.io.
//
// Ending requests that are slow to come is left to the http.Server: set its ReadTimeout,
// WriteTimeout and MaxHeaderBytes. Nothing is held here for a request that has not come as a
// whole, and upgraded connections are not subject to these timeouts.
type Server struct {
	// TokenTime is how long an upgrade is waited for; 0 means a minute.
	TokenTime time.Duration
	// MaxPending is how many upgrades may be waited for at once; 0 means 1000.
	MaxPending int
	// IdleTime is how long a tunnel may be without connections; 0 means 4
	// hours, the kubelet's own default (--streaming-connection-idle-timeout).
	IdleTime time.Duration
	// Memory is how many bytes the tunnels may hold unread together; 0 means 256
	// MiB. It pays for windows as they are granted, and 8 KiB for each stream.
	Memory int
	// MaxTunnels is how many tunnels there may be at once, and MaxPodTunnels how
	// many of them to one PendingUpgrade.Pod; 0 means 512 and 128.
	MaxTunnels, MaxPodTunnels int
	// Log gets what explains a Server's behaviour; nil means no log.
	Log *slog.Logger

	once    sync.Once
	log     *slog.Logger
	life    context.Context // ends with Close
	end     context.CancelFunc
	copier  pipe.Copier
	pending pendingUpgrades

	tunnels   serverTunnels
	listeners tunnel.Listeners
	memory    *spdy.Budget

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // tunnels
}

// Expect returns the path, "/portforward/TOKEN", under which ServeHTTP answers one upgrade,
// once and soon. The error is ErrTooManyPending, or net.ErrClosed after Close.
func (s *Server) Expect(u PendingUpgrade) (path string, err error) {
	s.init()
	token, err := s.pending.add(u)
	if err != nil {
		return "", err
	}
	return pathPrefix + token, nil
}

// ServeHTTP answers an upgrade, and with 404 one that is not expected. It returns as soon as
// it has answered; the tunnel stays.
//
// The token alone decides who may ask. A browser sends no credentials for it by itself, so an
// Origin header means nothing here.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s.init()
	token, ok := strings.CutPrefix(req.URL.Path, pathPrefix)
	var pending PendingUpgrade
	if ok {
		pending, ok = s.pending.take(token)
	}
	if !ok {
		http.NotFound(w, req)
		return
	}
	r := &upgradeRequest{
		server: s, pending: pending, client: clientAddr(req), userAgent: tunnel.ClipText(req.UserAgent()), share: s.memory.NewShare(),
	}
	if !s.enter() {
		r.release()
		http.Error(w, "server is closing", http.StatusServiceUnavailable)
		return
	}
	if !s.open(r, w, req) {
		r.release()
		s.work.Done()
	}
}

// open answers a request and has its tunnel served; false if it was refused.
func (s *Server) open(r *upgradeRequest, w http.ResponseWriter, req *http.Request) bool {
	if err := s.tunnels.admit(r); err != nil {
		s.log.Warn("upgrade refused", "client", r.client, "pod", r.pending.Pod, "err", err)
		http.Error(w, "unable to upgrade: "+err.Error(), http.StatusServiceUnavailable)
		return false
	}
	t, err := r.accept(w, req)
	if err != nil {
		s.log.Debug("upgrade refused", "client", r.client, "err", err)
		return false
	}
	s.tunnels.open(r, t)
	go func() {
		defer s.work.Done()
		defer r.release()
		began := time.Now()
		if err := t.Run(s.life); err != nil {
			s.log.Debug("tunnel closed", "client", r.client, "age", time.Since(began), "err", err)
		}
	}()
	return true
}

// enter counts a tunnel in, if the Server is open.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Add(1)
	}
	return !s.closed
}

// Close ends all tunnels with their connections, and waits until everything of
// theirs is gone.
func (s *Server) Close() error {
	s.init()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.pending.close()
	s.work.Wait()
	s.copier.Close()
	return nil
}

// init prepares what the fields decide; they must not change afterwards.
func (s *Server) init() {
	s.once.Do(func() {
		s.log = s.Log
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.pending.time = cmp.Or(s.TokenTime, defaultTokenTime)
		s.pending.max = cmp.Or(s.MaxPending, defaultMaxPending)
		s.tunnels.max = cmp.Or(s.MaxTunnels, defaultServerTunnels)
		s.tunnels.maxPerPod = cmp.Or(s.MaxPodTunnels, defaultPodTunnels)
		s.memory = &spdy.Budget{Size: cmp.Or(s.Memory, defaultServerMemory), MaxShares: s.tunnels.max}
		s.life, s.end = context.WithCancel(context.Background())
	})
}

// clientAddr returns who asked, as far as the request tells: the proxies that it came through,
// of which the first names the client if it speaks the truth.
func clientAddr(req *http.Request) string {
	if via := req.Header.Values("X-Forwarded-For"); len(via) > 0 {
		return tunnel.ClipText(strings.Join(via, ", "))
	}
	if host, _, err := net.SplitHostPort(req.RemoteAddr); err == nil {
		return host
	}
	return req.RemoteAddr
}
