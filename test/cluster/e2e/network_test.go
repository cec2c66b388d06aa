package e2e

import (
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// network is the way to the API server, which a test can block. Bytes wait then, as they do when a cable is pulled;
// nothing is reset.
type network struct {
	listener net.Listener
	mu       sync.RWMutex // held while blocked
}

// newNetwork starts one, which ends with the test.
func newNetwork(t *testing.T) *network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n := &network{listener: l}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go n.carry(conn)
		}
	}()
	return n
}

func (n *network) carry(client net.Conn) {
	defer client.Close()
	n.mu.RLock()
	server, err := net.Dial("tcp", strings.TrimPrefix(c.Server(), "https://"))
	n.mu.RUnlock()
	if err != nil {
		return
	}
	defer server.Close()
	go n.copy(server, client)
	n.copy(client, server)
}

func (n *network) copy(to, from net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		m, err := from.Read(buffer)
		n.mu.RLock()
		_, werr := to.Write(buffer[:m])
		n.mu.RUnlock()
		if err != nil || werr != nil {
			return
		}
	}
}

// outage is how long TestNetworkAway blocks the network: longer than a tunnel may be silent, or as long as
// $PORTHOLE_OUTAGE says, "1m".
func outage(t *testing.T) time.Duration {
	text, given := os.LookupEnv("PORTHOLE_OUTAGE")
	if !given {
		return 13 * time.Second
	}
	long, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return max(long, 13*time.Second)
}

// TestNetworkAway blocks the way to the API server for a while.
func TestNetworkAway(t *testing.T) {
	needCluster(t)
	networkAway(t, "solo", func(args ...string) *program { return start(t, append([]string{"forward"}, args...)...) })
}

// networkAway blocks the way of a program that forwards to a pod, and wants connections to outlive it.
func networkAway(t *testing.T, pod string, forward func(args ...string) *program) {
	t.Helper()
	away := outage(t)
	n := newNetwork(t)
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(c.Server(), "https://"))
	p := forward("--server", "https://"+n.listener.Addr().String(), "--tls-server-name", host, pod, ":8080")
	address := p.address(t, 0)
	live := newEchoer(t, address)
	if _, err := live.round(); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	time.Sleep(away - time.Second)
	meanwhile := make(chan error, 1)
	go func() {
		answer, err := say(address, "who\n")
		if err == nil && !strings.HasPrefix(answer, pod) {
			err = io.ErrUnexpectedEOF
		}
		meanwhile <- err
	}()
	time.Sleep(time.Second)
	n.mu.Unlock()
	back := time.Now()
	if err := <-meanwhile; err != nil {
		t.Errorf("a connection made while the network was away: %v", err)
	}
	t.Logf("it went through %v after the network was back", time.Since(back).Round(time.Millisecond))
	_ = live.conn.SetDeadline(time.Now().Add(patience))
	if _, err := live.round(); err != nil {
		t.Errorf("the connection that outlived it: %v", err)
	}
	if n := strings.Count(p.stderr(), "lost connection to pod"); n > 1 {
		t.Errorf("told %d times:\n%s", n, p.stderr())
	}
}
