package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"porthole.dev/porthole/internal/pipe"
	ours "porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// loopback reaches ports of this machine.
type loopback struct{}

func (loopback) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", to.Port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// node is our Server, which expects an upgrade from every client, behind an API
// server's proxy.
type node struct {
	*cluster

	mu     sync.Mutex
	events []ours.Event
}

func startNode(t testing.TB) *node {
	t.Helper()
	n := &node{}
	s := &ours.Server{}
	n.cluster = startBefore(t, func(w http.ResponseWriter, r *http.Request) {
		path, err := s.Expect(ours.PendingUpgrade{Dialer: loopback{}, Pod: "pod", Events: n.note})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		r.URL.Path = path
		s.ServeHTTP(w, r)
	})
	t.Cleanup(func() { s.Close() })
	return n
}

func (n *node) note(e ours.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// ended are the events of connections that have ended.
func (n *node) ended() (all []ours.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Stage != tunnel.Opened {
			all = append(all, e)
		}
	}
	return all
}

// kubectl is the stock client: one session with one port.
type kubectl struct {
	addr  string
	stop  func()
	ended chan error
}

// stockWays runs a test with the stock client, by each way that it knows, straight to
// our Server and through the API server.
func stockWays(t *testing.T, test func(t *testing.T, n *node, begin func(port uint16) *kubectl)) {
	for _, place := range []string{"node", "api"} {
		for _, way := range []string{"spdy", "websocket"} {
			t.Run(place+"/"+way, func(t *testing.T) {
				n := startNode(t)
				base := n.api.URL
				if place == "node" {
					base = n.node
				}
				test(t, n, func(port uint16) *kubectl { return begin(t, base, way, port) })
			})
		}
	}
}

func begin(t *testing.T, base, way string, port uint16) *kubectl {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	fw, err := portforward.New(stockDialer(t, u, way), []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubectl{ended: make(chan error, 1), stop: sync.OnceFunc(func() { close(stop) })}
	go func() { k.ended <- fw.ForwardPorts() }()
	t.Cleanup(k.stop)
	select {
	case <-ready:
	case err := <-k.ended:
		t.Fatal("session ended at its start:", err)
	}
	ports, err := fw.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	k.addr = fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
	return k
}

func stockDialer(t *testing.T, u *url.URL, way string) httpstream.Dialer {
	t.Helper()
	config := &rest.Config{Host: u.Host}
	if way == "websocket" {
		d, err := portforward.NewSPDYOverWebsocketDialer(u, config)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
}

func (k *kubectl) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", k.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

func TestStockClientBulk(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		conn := begin(testenv.ServeTCP(t, testenv.Echo)).dial(t)
		sent := make([]byte, 16<<20)
		rand.NewChaCha8([32]byte{1}).Read(sent)
		go func() {
			conn.Write(sent)
			conn.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(sent, got) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
		within(t, 10*time.Second, "the end is told", func() bool { return len(n.ended()) == 1 })
		if e := n.ended()[0]; e.Err != nil || e.Sent != 16<<20 || e.Received != 16<<20 || e.Protocol != "portforward.k8s.io" {
			t.Errorf("event %+v", e)
		}
	})
}

// What stock servers lose arrives: an answer that comes long after the question's end.
func TestStockClientHalfCloses(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		t.Parallel()
		conn := begin(testenv.ServeTCP(t, func(conn *net.TCPConn) {
			question, _ := io.ReadAll(conn)
			time.Sleep(3 * time.Second)
			conn.Write(append(question, '!'))
		})).dial(t)
		io.WriteString(conn, "question")
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "question!" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

// A port that closes first ends its connection well, and nothing else.
func TestStockClientPortEnds(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		k := begin(testenv.ServeTCP(t, func(conn *net.TCPConn) { io.WriteString(conn, "bye") }))
		for range 20 {
			if got, err := io.ReadAll(k.dial(t)); err != nil || string(got) != "bye" {
				t.Fatalf("read %q, %v", got, err)
			}
		}
		within(t, 10*time.Second, "the ends are told", func() bool { return len(n.ended()) == 20 })
		for _, e := range n.ended() {
			if e.Err != nil {
				t.Errorf("event %+v", e)
			}
		}
	})
}

// One connection's reset is its own: the stock client's session goes on.
func TestStockClientPortResets(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		k := begin(testenv.ServeTCP(t, func(conn *net.TCPConn) {
			b := make([]byte, 1)
			io.ReadFull(conn, b)
			if b[0] == 'r' {
				conn.SetLinger(0)
				return
			}
			conn.Write(b)
		}))
		for range 5 {
			conn := k.dial(t)
			io.WriteString(conn, "r")
			io.ReadAll(conn)
			conn = k.dial(t)
			io.WriteString(conn, "e")
			if got, err := io.ReadAll(conn); err != nil || string(got) != "e" {
				t.Fatalf("read %q, %v", got, err)
			}
		}
		within(t, 10*time.Second, "the ends are told", func() bool { return len(n.ended()) == 10 })
		failed := 0
		for _, e := range n.ended() {
			if errors.Is(e.Err, syscall.ECONNRESET) {
				failed++
			}
		}
		if failed != 5 {
			t.Errorf("%d resets were told", failed)
		}
	})
}

// A refused port is told in the words that people know, which end the stock client's
// session.
func TestStockClientRefused(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		k := begin(testenv.FreePort(t))
		io.ReadAll(k.dial(t))
		select {
		case err := <-k.ended:
			if !errors.Is(err, portforward.ErrLostConnectionToPod) {
				t.Errorf("session ended with %v", err)
			}
			k.ended <- err
		case <-time.After(testenv.Patience):
			t.Error("the session goes on: it was told nothing")
		}
		within(t, 10*time.Second, "the end is told", func() bool { return len(n.ended()) == 1 })
		if e := n.ended()[0]; !errors.Is(e.Err, syscall.ECONNREFUSED) {
			t.Errorf("event %+v", e)
		}
	})
}

func TestStockClientManyAtOnce(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		k := begin(testenv.ServeTCP(t, testenv.Echo))
		var work sync.WaitGroup
		for range 1000 {
			work.Go(func() {
				conn := k.dial(t)
				io.WriteString(conn, strings.Repeat("x", 10_000))
				conn.CloseWrite()
				if got, err := io.ReadAll(conn); err != nil || len(got) != 10_000 {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
			})
		}
		work.Wait()
	})
}

// The client that goes away takes its ports' connections along.
func TestStockClientGoes(t *testing.T) {
	stockWays(t, func(t *testing.T, n *node, begin func(uint16) *kubectl) {
		k := begin(testenv.ServeTCP(t, func(conn *net.TCPConn) {
			for {
				if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}))
		if _, err := io.CopyN(io.Discard, k.dial(t), 1<<20); err != nil {
			t.Fatal(err)
		}
		k.stop()
		within(t, 10*time.Second, "the end is told", func() bool { return len(n.ended()) == 1 })
	})
}

// Our own two ends recognise each other through the API server, by either way.
func TestBothEnds(t *testing.T) {
	ways(t, func(t *testing.T, way func(*ours.Client)) {
		n := startNode(t)
		c := n.client(t, way)
		port := testenv.ServeTCP(t, testenv.Echo)
		var work sync.WaitGroup
		for range 200 {
			work.Go(func() {
				if err := exchange(c, port, 10_000); err != nil {
					t.Error(err)
				}
			})
		}
		work.Wait()
		if err := exchange(c, port, 32<<20); err != nil {
			t.Error(err)
		}
		conn := dial(t, c, testenv.FreePort(t))
		var refused *tunnel.PortError
		if _, err := io.ReadAll(conn); !errors.As(err, &refused) || refused.Reason != tunnel.ReasonRefused {
			t.Errorf("read: %v", err)
		}
		conn.Close()
		for _, e := range n.ended() {
			if e.Protocol != "porthole.v1" || !strings.HasPrefix(e.Client, "127.0.0.1") {
				t.Fatalf("event %+v", e)
			}
		}
		if got := n.tunnels.Load(); got > 3 { // one is enough where the machine is not too busy
			t.Errorf("%d tunnels", got)
		}
	})
}

// By default one tunnel is opened, by SPDY, which gets through an API server.
func TestBothEndsOpenOneTunnel(t *testing.T) {
	n := startNode(t)
	c := n.client(t)
	if err := exchange(c, testenv.ServeTCP(t, testenv.Echo), 10_000); err != nil {
		t.Error(err)
	}
	if got := n.tunnels.Load(); got != 1 {
		t.Errorf("%d tunnels", got)
	}
}

// What the port answers before it resets the connection arrives, and the session goes on.
func TestStockGetsAnswerBeforeReset(t *testing.T) {
	answer := bytes.Repeat([]byte("a"), 229)
	stockWays(t, func(t *testing.T, _ *node, begin func(uint16) *kubectl) {
		k := begin(testenv.ServeTCP(t, func(conn *net.TCPConn) {
			io.ReadFull(conn, make([]byte, 1))
			conn.Write(answer)
		}))
		for i := range 100 {
			conn, err := net.Dial("tcp", k.addr)
			if err != nil {
				t.Fatal(err)
			}
			go conn.Write(make([]byte, 300_000))
			if got, err := io.ReadAll(conn); !bytes.Equal(got, answer) {
				t.Fatalf("try %d: %d bytes of the answer, then %v", i, len(got), err)
			}
			conn.Close()
		}
	})
}
