package ssh

import (
	"context"
	"errors"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	pingInterval = 5 * time.Second
	// The pauses between two attempts to reach a host.
	minPause = 500 * time.Millisecond
	maxPause = 10 * time.Second
	// loginSilences is how many times Silence an agent may take to answer again. The first time
	// there is no limit, because somebody may have to type a password.
	loginSilences = 4
)

// errNoAnswer means that ssh runs, and that no agent has answered.
var errNoAnswer = errors.New("no answer from porthole there")

// host is another host, with at most one tunnel to it, which all its routes share.
type host struct {
	opener *Opener
	name   target.Host

	mu      sync.Mutex
	client  *tunnel.Client // nil before the first, and after it is lost
	version string         // of the last agent
	opening chan struct{}  // closed when an attempt is over; nil while none is under way
	err     error          // of the last attempt
	pause   backoff.Backoff
}

// tunnel returns the tunnel, or opens one. Whoever waits waits for the same attempt; the first
// one fails at once, and later ones come after a pause.
func (h *host) tunnel(ctx context.Context) (*tunnel.Client, error) {
	h.mu.Lock()
	if h.client != nil && h.client.Err() == nil {
		defer h.mu.Unlock()
		return h.client, nil
	}
	if h.opening == nil {
		if h.opener.life.Err() != nil {
			defer h.mu.Unlock()
			return nil, context.Cause(h.opener.life)
		}
		h.opening = make(chan struct{})
		h.opener.work.Go(h.open)
	}
	opening := h.opening
	h.mu.Unlock()
	select {
	case <-opening:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil {
		return nil, h.err
	}
	return h.client, nil
}

// otherVersion returns the version of the agent, if it is another one than this program's.
func (h *host) otherVersion() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.version == h.opener.Version {
		return ""
	}
	return h.version
}

// close ends the tunnel. The opener's life has ended, so that no attempt begins afterwards.
func (h *host) close() {
	h.mu.Lock()
	client := h.client
	h.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// open makes one attempt.
func (h *host) open() {
	h.mu.Lock()
	rest := time.Duration(0)
	if h.pause.Failing() {
		rest = h.pause.Next(minPause, maxPause)
	}
	h.client = nil
	again := h.version != ""
	h.mu.Unlock()
	backoff.Sleep(h.opener.life, rest, nil)
	o := h.opener
	ctx, cancel := context.WithCancel(o.life)
	if again && o.Silence > 0 {
		ctx, cancel = context.WithTimeoutCause(o.life, loginSilences*o.Silence, errNoAnswer)
	}
	defer cancel()
	p, err := start(ctx, o.program(), h.name, o.remoteCommand(), tunnel.Greeting{Version: o.Version})
	if err == nil && !p.greeting.Has(tunnel.FeatureTargets) {
		p.Close()
		err = &VersionError{Host: h.name, Theirs: p.greeting.Version, Ours: o.Version}
	}
	if p != nil {
		o.work.Go(func() { <-p.ended })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err = err; err == nil {
		h.pause.Reset()
		h.version = p.greeting.Version
		h.client = tunnel.NewClient(p, tunnel.ClientConfig{SPDY: spdy.Config{PingInterval: pingInterval, PingTimeout: o.Silence}})
	} else if !h.pause.Failing() {
		h.pause.Next(minPause, maxPause)
	}
	if o.life.Err() != nil && h.client != nil {
		client := h.client
		h.client, h.err = nil, context.Cause(o.life)
		go client.Close()
	}
	close(h.opening)
	h.opening = nil
}
