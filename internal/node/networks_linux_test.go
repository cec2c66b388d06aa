package node

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// exchange sends bytes to an address of the pod and returns what comes back in one Read.
func (r *running) exchange(t *testing.T, to target.Address, text string) (string, error) {
	t.Helper()
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	defer client.Close()
	conn, err := client.Dial(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(net.Conn).SetDeadline(time.Now().Add(waitTime))
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	p := make([]byte, len(text)+1)
	n, err := conn.Read(p)
	return string(p[:n]), err
}

// Datagrams to a UDP port, of which the policy for ports decides too.
func TestForwardUDP(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := testenv.EchoUDP(pod.ListenUDP(t, "127.0.0.1:0"))
	deny, _ := target.ParsePortSet("22")
	r := startNode(t, pod, Node{Policy: Policy{Deny: deny}})
	records := follow(t, r.Events)
	if got, err := r.exchange(t, target.Address{Network: target.UDP, Port: port}, "hello"); got != "hello" {
		t.Errorf("echo %q, %v", got, err)
	}
	opened, closed := <-records, <-records
	if opened.Event != EventOpened || opened.Network != "udp" || opened.Port != port || opened.To() != fmt.Sprintf("%d/udp", port) {
		t.Errorf("opened: %+v", opened)
	}
	if closed.Event != EventClosed || closed.Network != "udp" || closed.Sent != 5 || closed.Received != 5 {
		t.Errorf("closed: %+v", closed)
	}
	r.log.waitFor(t, fmt.Sprintf(`"msg":"node: forward closed","namespace":"default","pod":"kuard","sandbox":"s1","network":"udp","port":%d,`, port))
	if _, err := r.exchange(t, target.Address{Network: target.UDP, Port: 22}, "hello"); !errors.Is(err, tunnel.ErrDenied) {
		t.Errorf("a port that is denied: %v", err)
	}
	r.wantMetrics(t, `porthole_forward_bytes_total{direction="sent",network="udp"} 5`, `porthole_forwards_total{network="udp",result="denied"} 1`)
	r.stop()
}

// What cannot be reached through a node, each with its reason.
func TestNodeReachesNoHosts(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), Node{})
	for _, to := range []target.Address{{Host: "127.0.0.1", Port: 80}, {Network: target.UDP, Host: "kube-dns", Port: 53}} {
		if _, err := r.exchange(t, to, "x"); !errors.Is(err, tunnel.ErrDenied) {
			t.Errorf("%s: %v, want ErrDenied", to, err)
		}
	}
	r.stop()
}

// The socat backend has TCP alone.
func TestSocatIsTCPOnly(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), Node{Backend: Socat})
	if _, err := r.exchange(t, target.Address{Network: target.UDP, Port: 53}, "x"); !errors.Is(err, tunnel.ErrUnsupported) {
		t.Errorf("53/udp: %v, want ErrUnsupported", err)
	}
	r.stop()
}

// Datagrams that were dropped are counted, and paths are no labels.
func TestCountNetworks(t *testing.T) {
	m := newForwardMetrics(new(portforward.Server).Load)
	series := func(name string) int {
		n, err := testutil.GatherAndCount(m.registry, name)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := series("porthole_forwards_total")
	e := portforward.Event{Event: tunnel.Event{Stage: tunnel.Closed, To: target.Address{Network: target.UDP, Port: 53}, Sent: 100, Dropped: 3}}
	m.count(recordOf(&sandbox{}, e))
	if n := testutil.ToFloat64(m.dropped); n != 3 {
		t.Errorf("%v datagrams are counted as dropped, want 3", n)
	}
	for i := range 10 {
		e.To = target.Address{Network: target.Unix, Path: fmt.Sprintf("/run/%d.sock", i)}
		m.count(recordOf(&sandbox{}, e))
	}
	if after := series("porthole_forwards_total"); after != before {
		t.Errorf("ten paths make %d series of %d", after, before)
	}
}
