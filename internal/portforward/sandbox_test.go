package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// A pod goes on in another sandbox, to which new tunnels lead. One connection finds out
// that the old one is gone, and the next are well.
func TestSandboxMadeAnew(t *testing.T) {
	t.Run("stock", func(t *testing.T) {
		for _, text := range goneTexts {
			var sandbox atomic.Pointer[string]
			s := start(t, func(r *request) {
				if *sandbox.Load() != "new" {
					r.fail(text)
					return
				}
				echo(r)
			})
			old, next := "old", "new"
			sandbox.Store(&next)
			s.answer = func(http.ResponseWriter, *http.Request) bool {
				sandbox.Store(&next)
				return false
			}
			c := s.client(t, spdyOnly, func(c *Client) { c.MaxTunnels = 1 })
			exchange(t, c)
			sandbox.Store(&old)
			conn := dial(t, c, 80)
			if _, err := io.ReadAll(conn); !errors.Is(err, tunnel.ErrNoSandbox) {
				t.Fatalf("%q is taken for %v", text, err)
			}
			conn.Close()
			exchange(t, c)
			if n := s.opened(); n < 2 {
				t.Errorf("%d tunnels", n)
			}
		}
	})
	t.Run("v1", func(t *testing.T) {
		var old atomic.Bool
		n := newNode(t, func(n *node) {
			n.Pending.Dialer = loopback{err: func(uint16) error {
				if old.Load() {
					return fmt.Errorf("enter: %w", tunnel.ErrNoSandbox)
				}
				return nil
			}}
		})
		c, port := n.client(t), testenv.ServeTCP(t, testenv.Echo)
		exchangeWith(t, c, port, 10)
		old.Store(true)
		conn := reach(t, c, port)
		if _, err := io.ReadAll(conn); !errors.Is(err, tunnel.ErrNoSandbox) {
			t.Fatalf("read: %v", err)
		}
		first := tunnelOf(conn)
		conn.Close()
		old.Store(false)
		next := reach(t, c, port)
		defer next.Close()
		if tunnelOf(next) == first {
			t.Error("the next connection is in the same tunnel")
		}
		within(t, 10*time.Second, "the server ends the tunnel", func() bool { return first.Err() != nil })
	})
}

// Connections that are made while the tunnel to a sandbox that is gone ends are served, or
// their client knows that nothing was done for them.
func TestEndOfTunnelLosesNothing(t *testing.T) {
	for range 30 {
		sandbox, end := context.WithCancel(t.Context())
		n := newNode(t, func(n *node) { n.Pending.Sandbox = sandbox })
		c, port := n.client(t, spdyOnly), testenv.ServeTCP(t, testenv.Echo)
		exchangeWith(t, c, port, 10)
		var work sync.WaitGroup
		for range 20 {
			work.Go(func() {
				conn := reach(t, c, port)
				defer conn.Close()
				_, err := conn.Write([]byte("x"))
				if err == nil {
					_, err = io.ReadFull(conn, make([]byte, 1))
				}
				if err != nil && !errors.Is(err, tunnel.ErrRefused) {
					t.Error(err)
				}
			})
		}
		n.mu.Lock()
		n.Pending.Sandbox = nil // the next one
		n.mu.Unlock()
		end()
		work.Wait()
	}
}

var goneTexts = []string{
	`error forwarding port 80 to pod 4f2a, uid : network namespace for sandbox "4f2a" is closed`,
	`error forwarding port 80 to pod 4f2a, uid : failed to find sandbox "4f2a" in store: not found`,
	`error forwarding port 80 to pod 4f2a, uid : PodSandbox with ID starting with 4f2a not found: no such id`,
	`error forwarding port 80 to pod 4f2a, uid : could not find sandbox 4f2a`,
	`error forwarding port 80 to pod 4f2a, uid : sandbox 4f2a is not running`,
	`error forwarding port 80 to pod 4f2a, uid : network namespace path of sandbox 4f2a is empty`,
	`error forwarding port 80 to pod 4f2a, uid : container not running (4f2a)`,
	`error forwarding port 80 to pod 4f2a, uid : the pod's network namespace is gone: process 7: the process has exited`,
}

// Words of stock servers mean that, or a refused connection, or nothing that is known.
func TestStockError(t *testing.T) {
	for text, want := range map[string]error{
		`failed to execute portforward in network namespace "/var/run/netns/cni-1": failed to connect to localhost:80 inside namespace "4f2a", IPv4: dial tcp4 127.0.0.1:80: connect: connection refused`: syscall.ECONNREFUSED,
		"socat[7] E connect(5, AF=2 127.0.0.1:80, 16): Connection refused": syscall.ECONNREFUSED,
		"unable to do port forwarding: socat not found.":                   nil,
		"timed out waiting for streams":                                    nil,
		"":                                                                 nil,
	} {
		err := StockError(80, text)
		for _, is := range []error{syscall.ECONNREFUSED, tunnel.ErrNoSandbox} {
			if errors.Is(err, is) != errors.Is(want, is) {
				t.Errorf("%q: whether it is %v: %v", text, is, errors.Is(err, is))
			}
		}
	}
	if err := (&tunnel.PortError{Reason: tunnel.ReasonFailed, Text: goneTexts[0]}); errors.Is(err, tunnel.ErrNoSandbox) {
		t.Error("a reason of our own servers counts more than words")
	}
}

// The tunnel of a pod that is gone ends with its last connection.
func TestSandboxEnds(t *testing.T) {
	forms(t, func(t *testing.T, form func(*Client)) {
		sandbox, end := context.WithCancel(t.Context())
		n := newNode(t, func(n *node) { n.Pending.Sandbox = sandbox })
		c, port := n.client(t, form), testenv.ServeTCP(t, testenv.Echo)
		conn := reach(t, c, port)
		mustWrite(t, conn, "hello")
		mustRead(t, conn, "hello")
		end()
		mustWrite(t, conn, "still there")
		mustRead(t, conn, "still there")
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
			t.Errorf("read %q, %v", got, err)
		}
		conn.Close()
		within(t, 10*time.Second, "the tunnel ends", func() bool { return tunnelOf(conn).Err() != nil })
	})
}
