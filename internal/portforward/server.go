package portforward

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
)

// pathPrefix is where upgrades are answered; the token follows.
const pathPrefix = "/portforward/"

const (
	defaultTokenTime  = time.Minute
	defaultMaxOffers  = 1000
	defaultServerIdle = 4 * time.Hour
)

// Server is the node's end of the protocol: it answers upgrades, for which a
// single-use token was handed out before, and joins the connections in their
// tunnels to ports. The zero value works; its methods are safe to call at the
// same time. Call Close in the end.
//
// It answers SPDY/3.1, the WebSocket that carries SPDY, and the older WebSocket
// forms v4.channel.k8s.io and v4.base64.channel.k8s.io.
//
// Requests that are slow to come are the http.Server's to end: set its
// ReadTimeout, WriteTimeout and MaxHeaderBytes. Nothing is held here for one that has not
// come as a whole, and upgraded connections are not subject to its timeouts.
type Server struct {
	// TokenTime is how long an Offer waits for its upgrade; 0 means a minute.
	TokenTime time.Duration
	// MaxOffers is how many Offers may wait at once; 0 means 1000.
	MaxOffers int
	// IdleTime is how long a tunnel may be without connections; 0 means 4
	// hours, the kubelet's own default (--streaming-connection-idle-timeout).
	IdleTime time.Duration
	// Memory is how many octets the tunnels may hold unread together; 0 means 256
	// MiB. It pays for windows as they are granted, and 8 KiB for each stream.
	Memory int
	// MaxTunnels is how many tunnels there may be at once, and MaxPodTunnels how
	// many of them to one Offer.Pod; 0 means 512 and 128.
	MaxTunnels, MaxPodTunnels int
	// Log gets what explains a Server's behaviour; nil is for nobody.
	Log *slog.Logger

	once   sync.Once
	log    *slog.Logger
	life   context.Context // ends with Close
	end    context.CancelFunc
	copier pipe.Copier
	offers offers

	tunnels serverTunnels
	memory  *spdy.Budget

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // tunnels
}

// Offer returns the path, "/portforward/TOKEN", under which ServeHTTP answers one
// upgrade, once and soon. The error is ErrTooManyOffers, or net.ErrClosed after
// Close.
func (s *Server) Offer(o Offer) (path string, err error) {
	s.init()
	token, err := s.offers.add(o)
	if err != nil {
		return "", err
	}
	return pathPrefix + token, nil
}

// ServeHTTP answers an upgrade, and with 404 what has no Offer. It returns as soon
// as it has answered; the tunnel goes on.
//
// Who asks is nobody's question but the token's: there is nothing here that a
// browser would send along by itself, so an Origin header means nothing.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.init()
	token, ok := strings.CutPrefix(r.URL.Path, pathPrefix)
	var offer Offer
	if ok {
		offer, ok = s.offers.take(token)
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	c := &caller{server: s, offer: offer, addr: clientAddr(r), agent: clip(r.UserAgent()), share: s.memory.NewShare()}
	if !s.enter() {
		c.leave()
		http.Error(w, "server is closing", http.StatusServiceUnavailable)
		return
	}
	if err := s.tunnels.admit(c); err != nil {
		s.log.Warn("upgrade refused", "client", c.addr, "pod", offer.Pod, "err", err)
		c.leave()
		s.work.Done()
		http.Error(w, "unable to upgrade: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	tunnel, err := c.accept(w, r)
	if err != nil {
		s.log.Debug("upgrade refused", "client", c.addr, "err", err)
		c.leave()
		s.work.Done()
		return
	}
	s.tunnels.open(c, tunnel)
	go func() {
		defer s.work.Done()
		defer c.leave()
		tunnel.run(s.life)
	}()
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
	s.offers.close()
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
		s.offers.time = orDefault(s.TokenTime, defaultTokenTime)
		s.offers.max = orDefault(s.MaxOffers, defaultMaxOffers)
		s.initLimits()
		s.life, s.end = context.WithCancel(context.Background())
	})
}

// clientAddr is who asked, as far as the request tells: the way it came, from proxy
// to proxy, of which the first is the client if it speaks the truth.
func clientAddr(r *http.Request) string {
	if via := r.Header.Values("X-Forwarded-For"); len(via) > 0 {
		return clip(strings.Join(via, ", "))
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}
