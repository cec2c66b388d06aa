package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// agentPing is how often an agent is asked whether it is alive.
	agentPing = 5 * time.Second
	// greetingTime is how long an agent may take to greet once its key is known.
	greetingTime = 10 * time.Second
	// listenTime is how long an agent that runs may take to listen, and listenPause is between two looks.
	listenTime  = 10 * time.Second
	listenPause = 200 * time.Millisecond
	// The pauses between attempts to reach an agent.
	minAgentPause = 100 * time.Millisecond
	maxAgentPause = 5 * time.Second
)

// agentTunnel is the tunnel to a porthole that listens on a port of a pod's loopback, an agent
// or a relay. All connections through it share one byte stream, which is opened when the first
// of them needs it, and again after it was lost.
type agentTunnel struct {
	// reach connects to the agent's port, and returns the key that the agent has, or the zero one if any
	// is to be accepted. It is called for each attempt, and starts an agent if there is none.
	reach func(ctx context.Context) (net.Conn, pinned.PublicKey, error)
	// config has the user's key and this program's version.
	config *Agents
	// silence is after how long without a sign of life the tunnel is given up; 0 is never.
	silence time.Duration
	// greeted, unless nil, is called with the agent's version whenever a tunnel was opened.
	greeted func(version string)

	shared tunnel.Shared
}

// init makes the tunnel ready; it is opened later. Call shared.Close in the end.
func (t *agentTunnel) init() *agentTunnel {
	t.shared.Open, t.shared.MinPause, t.shared.MaxPause = t.open, minAgentPause, maxAgentPause
	return t
}

// open makes one attempt.
func (t *agentTunnel) open(ctx context.Context) (*tunnel.Client, error) {
	key, err := t.config.key()
	if err != nil {
		return nil, err
	}
	secure, err := t.connect(ctx, key)
	if err != nil {
		return nil, err
	}
	stream, greeting, err := greet(ctx, secure, tunnel.Greeting{Version: t.config.Version})
	if err != nil {
		secure.Close()
		return nil, err
	}
	if t.greeted != nil {
		t.greeted(greeting.Version)
	}
	return tunnel.NewClient(stream, tunnel.ClientConfig{
		SPDY: spdy.Config{PingInterval: agentPing, PingTimeout: t.silence, Batch: spdy.LargeBatch},
	}), nil
}

// connect connects to the agent. One whose key could not be waited for may run and not listen yet.
func (t *agentTunnel) connect(ctx context.Context, key pinned.Key) (*pinned.Conn, error) {
	for began := time.Now(); ; {
		conn, theirs, err := t.reach(ctx)
		if err != nil {
			return nil, err
		}
		secure, err := pinned.Client(ctx, conn, key, theirs)
		if !errors.Is(err, syscall.ECONNREFUSED) || theirs != (pinned.PublicKey{}) || time.Since(began) > listenTime {
			return secure, err
		}
		backoff.Sleep(ctx, listenPause, nil)
	}
}

// greet exchanges greetings, of which the agent's is the first.
func greet(ctx context.Context, conn net.Conn, mine tunnel.Greeting) (io.ReadWriteCloser, tunnel.Greeting, error) {
	_ = conn.SetDeadline(time.Now().Add(greetingTime))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	stream, theirs, err := tunnel.GreetServer(conn, mine)
	if !stop() {
		return nil, theirs, context.Cause(ctx)
	}
	if pinned.Refused(unwrapNoise(err)) {
		return nil, theirs, ErrAgentRefuses
	}
	if err != nil {
		return nil, theirs, fmt.Errorf("greet the agent: %w", err)
	}
	return stream, theirs, conn.SetDeadline(time.Time{})
}

// unwrapNoise returns why a greeting could not be read.
func unwrapNoise(err error) error {
	var noise *tunnel.NoiseError
	if errors.As(err, &noise) {
		return noise.Err
	}
	return err
}
