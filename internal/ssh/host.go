package ssh

import (
	"context"
	"errors"
	"sync"
	"time"

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
	shared tunnel.Shared

	mu      sync.Mutex
	version string // of the last agent; "" before the first
}

// tunnel returns the tunnel, or opens one.
func (h *host) tunnel(ctx context.Context) (*tunnel.Client, error) { return h.shared.Client(ctx) }

func (h *host) lastVersion() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.version
}

// otherVersion returns the version of the agent, if it is another one than this program's.
func (h *host) otherVersion() string {
	if version := h.lastVersion(); version != h.opener.Version {
		return version
	}
	return ""
}

// open makes one attempt to open the tunnel.
func (h *host) open(ctx context.Context) (*tunnel.Client, error) {
	o := h.opener
	if h.lastVersion() != "" && o.Silence > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, loginSilences*o.Silence, errNoAnswer)
		defer cancel()
	}
	p, err := start(ctx, o.program(), h.name, o.remoteCommand(), tunnel.Greeting{Version: o.Version})
	if err != nil {
		return nil, err
	}
	o.work.Go(func() { <-p.ended })
	if !p.greeting.Has(tunnel.FeatureTargets) {
		p.Close()
		return nil, &VersionError{Host: h.name, Theirs: p.greeting.Version, Ours: o.Version}
	}
	h.mu.Lock()
	h.version = p.greeting.Version
	h.mu.Unlock()
	return tunnel.NewClient(p, tunnel.ClientConfig{SPDY: spdy.Config{PingInterval: pingInterval, PingTimeout: o.Silence}}), nil
}
