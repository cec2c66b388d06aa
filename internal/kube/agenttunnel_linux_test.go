package kube

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// agentHere is an agent on this host's loopback, for one client.
type agentHere struct {
	address string
	key     pinned.PublicKey
}

func newKey(t *testing.T) pinned.Key {
	t.Helper()
	key, err := pinned.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func startAgentHere(t *testing.T, client pinned.PublicKey) agentHere {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	server := &agent.TLSServer{Agent: &agent.Agent{Version: "theirs", Dialer: netns.Here()}, Key: key, Client: client, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return agentHere{l.Addr().String(), key.Public()}
}

// newTunnelHere is a tunnel to whatever listens at an address, which is to have a key.
func newTunnelHere(t *testing.T, config *Agents, address *atomic.Pointer[string], theirs pinned.PublicKey) *agentTunnel {
	t.Helper()
	a := (&agentTunnel{config: config, reach: func(ctx context.Context) (net.Conn, pinned.PublicKey, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", *address.Load())
		return conn, theirs, err
	}}).init()
	t.Cleanup(a.shared.Close)
	return a
}

func at(address string) *atomic.Pointer[string] {
	p := new(atomic.Pointer[string])
	p.Store(&address)
	return p
}

// echoes sends a line through the tunnel and wants it back.
func echoes(t *testing.T, a *agentTunnel, to target.Address) {
	t.Helper()
	client, err := a.shared.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := client.Dial(to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// The tunnel is shared, opened again when it was lost, and knows the agent's version.
func TestAgentTunnel(t *testing.T) {
	testenv.NoLeaks(t)
	config := &Agents{Version: "ours", KeyFile: filepath.Join(t.TempDir(), "agent.key")}
	key, err := config.key()
	if err != nil {
		t.Fatal(err)
	}
	here, to := startAgentHere(t, key.Public()), target.TCPPort(testenv.ServeTCP(t, testenv.Echo))
	a := newTunnelHere(t, config, at(here.address), here.key)
	var version atomic.Value
	a.greeted = func(v string) { version.Store(v) }
	echoes(t, a, to)
	first, _ := a.shared.Client(t.Context())
	if second, _ := a.shared.Client(t.Context()); first != second {
		t.Error("two tunnels at once")
	}
	if version.Load() != "theirs" {
		t.Errorf("the agent's version is %v", version.Load())
	}
	first.Close()
	echoes(t, a, to)
}

// Whoever has the agent's port and not its key gets nothing, and so does a client of whom an agent does not know.
func TestAgentStrangers(t *testing.T) {
	testenv.NoLeaks(t)
	config := &Agents{KeyFile: filepath.Join(t.TempDir(), "agent.key")}
	key, err := config.key()
	if err != nil {
		t.Fatal(err)
	}
	right := startAgentHere(t, key.Public())
	squatter, others := startAgentHere(t, key.Public()), startAgentHere(t, newKey(t).Public())
	for name, c := range map[string]struct {
		address string
		key     pinned.PublicKey
		want    error
	}{
		"a squatter":      {squatter.address, right.key, pinned.ErrStranger},
		"another's agent": {others.address, others.key, ErrAgentRefuses},
	} {
		_, err := newTunnelHere(t, config, at(c.address), c.key).shared.Client(t.Context())
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	lines := at(echoLines(t))
	if _, err := newTunnelHere(t, config, lines, right.key).shared.Client(t.Context()); err == nil {
		t.Error("what is no agent was taken for one")
	}
	echoes(t, newTunnelHere(t, config, at(right.address), pinned.PublicKey{}), target.TCPPort(testenv.ServeTCP(t, testenv.Echo))) // any key, without the right to its log
}

// echoLines is a server that speaks no TLS.
func echoLines(t *testing.T) string {
	to := target.TCPPort(testenv.ServeTCP(t, testenv.Echo))
	return net.JoinHostPort("127.0.0.1", to.String())
}
