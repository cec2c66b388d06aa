package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// maxStrangers is how many connections may be without a proven key at once. For one more
	// the oldest is closed, so that silent ones keep nobody out.
	maxStrangers = 64
	// maxTunnels is how many tunnels the client may have at once, one for each of its sessions.
	maxTunnels = 64
	// greetingTime is how long the client may take to greet.
	greetingTime = 10 * time.Second
	// memory is what all tunnels together may hold unread: the memory is the pod's. Little of it is
	// used unless readers stall, but each connection is charged for what may come.
	memory = 128 << 20
	// defaultIdleTime is how long nothing is used until memory is given back.
	defaultIdleTime = 10 * time.Minute
	// strangersLogged is the time between two lines about strangers in the log, at least.
	strangersLogged = time.Minute
)

// TLSServer serves an Agent on a port that others can reach too: whoever does not prove to be the
// client is refused. Agent, Key, Client and Log are needed.
type TLSServer struct {
	Agent  *Agent
	Key    pinned.Key       // of this end
	Client pinned.PublicKey // of the other
	Log    *slog.Logger
	// ExitAfter, if set, is how long Serve goes on without a tunnel.
	ExitAfter time.Duration
	// IdleTime is how long there has been no connection in any tunnel when the memory of the last
	// ones is given back; 0 means 10 minutes.
	IdleTime time.Duration

	copier    pipe.Copier
	listeners tunnel.Listeners
	budget    spdy.Budget
	work      sync.WaitGroup
	logged    rate.Sometimes // strangers

	mu        sync.Mutex
	strangers []net.Conn // without a proven key, the oldest first
	tunnels   int
	leave     *time.Timer // runs while there is no tunnel; nil without ExitAfter
	memory    idleMemory
}

// Serve lets the client in until ctx ends, or ExitAfter has passed, and ends its tunnels then. It
// owns the listener. The error is that of the listener.
func (s *TLSServer) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	s.budget.Size, s.budget.MaxShares = memory, maxTunnels
	s.logged = rate.Sometimes{First: 1, Interval: strangersLogged}
	s.memory.start(cmp.Or(s.IdleTime, defaultIdleTime), s.copier.Close)
	defer s.memory.stop()
	defer s.copier.Close()
	if s.ExitAfter > 0 {
		s.leave = time.AfterFunc(s.ExitAfter, cancel)
		defer s.leave.Stop()
	}
	defer s.work.Wait()
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var pause backoff.Backoff
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause.Reset()
			s.work.Go(func() { s.serve(ctx, conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("agent: %w", err)
		default: // out of descriptors or memory, for now
			s.Log.Warn("agent: accept", "err", err)
			backoff.Sleep(ctx, pause.Next(10*time.Millisecond, time.Second), nil)
		}
	}
}

// serve does the handshake with whoever has connected, and serves the tunnel if that is the client.
func (s *TLSServer) serve(ctx context.Context, conn net.Conn) {
	s.memory.touch()
	conn = nonblock.Burst(conn)
	s.addStranger(conn)
	secure, err := pinned.Server(ctx, conn, s.Key, s.Client)
	s.removeStranger(conn)
	if err != nil {
		if ctx.Err() == nil {
			s.logged.Do(func() { s.Log.Warn("agent: a stranger was refused", "err", err) })
		}
		return
	}
	defer secure.Close()
	if !s.addTunnel() {
		s.Log.Warn("agent: the client has too many tunnels", "tunnels", maxTunnels)
		return
	}
	defer s.removeTunnel()
	defer context.AfterFunc(ctx, func() { secure.Close() })()
	_ = secure.SetDeadline(time.Now().Add(greetingTime))
	greeted, err := s.Agent.greet(secure)
	if err != nil {
		s.Log.Warn("agent: the client did not greet", "err", err)
		return
	}
	_ = secure.SetDeadline(time.Time{})
	s.tunnel(ctx, greeted)
}

// tunnel serves a tunnel of the client.
func (s *TLSServer) tunnel(ctx context.Context, stream io.ReadWriteCloser) {
	cfg := s.Agent.config()
	cfg.Copier, cfg.Listeners = &s.copier, &s.listeners
	cfg.SPDY.Batch = spdy.LargeBatch
	cfg.SPDY.Share = s.budget.NewShare()
	cfg.Events = func(e tunnel.Event) {
		switch e.Stage {
		case tunnel.Opened:
			s.memory.use()
		case tunnel.Closed:
			s.memory.unuse()
		case tunnel.Failed: // was never opened
		}
	}
	_ = tunnel.NewServer(stream, cfg).Run(ctx) // the error says how the client went away
}

// addStranger counts a connection whose key is not proven yet. If there are too many, the oldest is closed.
func (s *TLSServer) addStranger(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.strangers) >= maxStrangers {
		s.strangers[0].Close()
		s.strangers = slices.Delete(s.strangers, 0, 1)
	}
	s.strangers = append(s.strangers, conn)
}

// removeStranger counts one out, when its handshake has succeeded or failed.
func (s *TLSServer) removeStranger(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers = slices.DeleteFunc(s.strangers, func(other net.Conn) bool { return other == conn })
}

// addTunnel counts a tunnel, and reports whether there may be one more.
func (s *TLSServer) addTunnel() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tunnels >= maxTunnels {
		return false
	}
	s.tunnels++
	if s.leave != nil {
		s.leave.Stop()
	}
	return true
}

func (s *TLSServer) removeTunnel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels--
	if s.leave != nil && s.tunnels == 0 {
		s.leave.Reset(s.ExitAfter)
	}
}
