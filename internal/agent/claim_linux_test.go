package agent_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// thisHost is a target that is listened at on this host.
type thisHost struct{}

func (thisHost) Dial(context.Context, target.Address) (pipe.Conn, error) {
	return nil, syscall.ECONNREFUSED
}
func (thisHost) Wait(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
func (thisHost) Close() error                   { return nil }

// greeted is a stream of which some bytes were read ahead.
type greeted struct {
	*bufio.Reader
	net.Conn
}

func (g greeted) Read(p []byte) (int, error) { return g.Reader.Read(p) }

// openAgent starts an agent with a tunnel of its own, and opens a target in it.
func openAgent(t *testing.T) *tunnel.ClientTarget {
	t.Helper()
	near, far := testenv.TCPPair(t)
	open := func(context.Context, target.Forward, func(route.Event)) (*route.Result, error) {
		return &route.Result{Route: thisHost{}, Bind: forward.Bind}, nil
	}
	a := &agent.Agent{Version: "test", Openers: map[target.Scheme]route.Opener{target.NetNS: open}}
	done := make(chan error, 1)
	go func() { done <- a.Serve(context.Background(), far) }()
	buffered := bufio.NewReader(near)
	if g, err := tunnel.ReadGreeting(buffered); err != nil || !g.Has(tunnel.FeatureListen) {
		t.Fatal(g, err)
	}
	if _, err := near.Write(tunnel.Greeting{}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	client := tunnel.NewClient(greeted{buffered, near}, tunnel.ClientConfig{})
	t.Cleanup(func() { client.Close(); <-done })
	opened, err := client.OpenTarget(t.Context(), "netns:///here", "")
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// An agent lets go of what it listens on when the session comes back by another agent, which is another program
// where ssh has started it, and for no other session.
func TestAnotherAgentTakesOver(t *testing.T) {
	testenv.NoLeaks(t)
	first, second := openAgent(t), openAgent(t)
	session := tunnel.NewSession()
	at := target.Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), testenv.FreePort(t))}
	old, err := first.Listen(t.Context(), at, session)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := second.Listen(t.Context(), at, tunnel.NewSession()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("another session: %v, %v", l, err)
	}
	for range 2 { // and back
		l, err := second.Listen(t.Context(), at, session)
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := old.Streams.Accept(); err == nil {
			t.Errorf("the earlier agent listens still: %v", conn)
		}
		conn, err := net.Dial("tcp", at.AddrPort.String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Streams.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "x")
		if _, err := io.ReadFull(accepted, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		conn.Close()
		accepted.Close()
		first, second, old = second, first, l
	}
}
