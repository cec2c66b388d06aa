package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// tunnelTo returns a client with a tunnel of its own.
func (r *running) tunnelTo(t *testing.T) *portforward.Client {
	t.Helper()
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// listen listens in the pod, through a tunnel of its own.
func (r *running) listen(t *testing.T, at string, network target.Network) (*route.Listener, error) {
	t.Helper()
	return r.tunnelTo(t).Listen(t.Context(), target.Endpoint{Network: network, AddrPort: netip.MustParseAddrPort(at)}, tunnel.NewSession())
}

// echoBack answers each connection of a listener with what it sends.
func echoBack(l *route.Listener) {
	for {
		conn, err := l.Streams.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if l.Local.Network == target.TCP {
				_, _ = io.Copy(conn, conn)
				_ = conn.(pipe.Conn).CloseWrite()
				return
			}
			for p := make([]byte, 100); ; {
				n, err := conn.Read(p)
				if err != nil {
					return
				}
				_, _ = conn.Write(p[:n])
			}
		}()
	}
}

// askInPod has a program of the pod send bytes and wait for as many.
func askInPod(t *testing.T, pod *testenv.Pod, to target.Address) error {
	t.Helper()
	conn, err := pod.NS.Dial(t.Context(), to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.(net.Conn).SetDeadline(time.Now().Add(waitTime))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	p := make([]byte, 5)
	if _, err := io.ReadFull(conn, p); err != nil || string(p) != "hello" {
		return fmt.Errorf("echo %q, %w", p, err)
	}
	return nil
}

// A program of the pod arrives at the client, by TCP and UDP, and the node tells of it.
func TestReverse(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	deny, _ := target.ParsePortSet("8022")
	r := startNode(t, pod, Node{Policy: Policy{AllowReverse: ReverseLoopback, Deny: deny}})
	records := follow(t, r.Events)
	for _, network := range []target.Network{target.TCP, target.UDP} {
		l, err := r.listen(t, "127.0.0.1:8080", network)
		if err != nil {
			t.Fatal(err)
		}
		go echoBack(l)
		if err := askInPod(t, pod, target.Address{Network: network, Port: 8080}); err != nil {
			t.Error(err)
		}
		listening, opened := <-records, <-records
		if listening.Event != EventListening || !listening.Reverse || listening.Address != "127.0.0.1" || listening.Port != 8080 || listening.Network != network.String() {
			t.Errorf("listening: %+v", listening)
		}
		if opened.Event != EventOpened || !opened.Reverse || !strings.HasPrefix(opened.From, "127.0.0.1:") || !strings.HasPrefix(opened.To(), "reverse:8080") {
			t.Errorf("opened: %+v", opened)
		}
		l.Close()
		for ended := map[string]bool{}; len(ended) < 2; {
			ended[(<-records).Event] = true
		}
		r.wantMetrics(t, fmt.Sprintf(`porthole_reverse_bytes_total{direction="sent",network=%q} 5`, network),
			fmt.Sprintf(`porthole_reverse_open{network=%q} 0`, network), fmt.Sprintf(`porthole_reverse_listeners{network=%q} 0`, network))
	}
	r.log.waitFor(t, `"msg":"node: reverse listening","namespace":"default","pod":"kuard","sandbox":"s1","network":"tcp","port":8080,"address":"127.0.0.1"`)
	r.log.waitFor(t, `"msg":"node: reverse closed","namespace":"default","pod":"kuard","sandbox":"s1","network":"tcp","port":8080,"from":"127.0.0.1:`)
	if strings.Contains(r.log.String(), "session") {
		t.Error("the token of a session is in the log")
	}
	r.stop()
}

// What the operator has not allowed is denied, by the flag's name, and nothing is listened on.
func TestReverseDenied(t *testing.T) {
	allow, _ := target.ParsePortSet("8080")
	for name, test := range map[string]struct {
		policy Policy
		at     string
		want   string
	}{
		"by default":          {Policy{}, "127.0.0.1:8080", "(--allow-reverse)"},
		"all addresses":       {Policy{AllowReverse: ReverseLoopback}, "0.0.0.0:8080", "(--allow-reverse=loopback)"},
		"all IPv6 addresses":  {Policy{AllowReverse: ReverseLoopback}, "[::]:8080", "(--allow-reverse=loopback)"},
		"a port":              {Policy{AllowReverse: ReverseAny, Deny: allow}, "0.0.0.0:8080", "(--deny-ports)"},
		"another port":        {Policy{AllowReverse: ReverseAny, Allow: allow}, "0.0.0.0:8081", "(--allow-ports)"},
		"any free port":       {Policy{AllowReverse: ReverseAny, Allow: allow}, "127.0.0.1:0", "(--allow-ports, --deny-ports)"},
		"a privileged port":   {Policy{AllowReverse: ReverseAny}, "127.0.0.1:80", ""},
		"any allowed address": {Policy{AllowReverse: ReverseAny, Allow: allow}, "0.0.0.0:8080", ""},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			r := startNode(t, testenv.NewPod(t), Node{Policy: test.policy})
			l, err := r.listen(t, test.at, target.TCP)
			if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, tunnel.ErrDenied) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("listen: %v, %v", l, err)
			}
			r.stop()
		})
	}
}

// Nothing is listened on in the node's own network, also if the runtime does not say that the pod uses it.
func TestReverseNeverOnNode(t *testing.T) {
	own := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	for what, info := range map[string]string{
		"by path": fmt.Sprintf(containerdInfo, os.Getpid(), own), "by process": fmt.Sprintf(containerdHostInfo, os.Getpid()),
	} {
		t.Run(what, func(t *testing.T) {
			testenv.NoLeaks(t)
			r := startNode(t, testenv.NewPod(t), Node{Policy: Policy{AllowReverse: ReverseAny}})
			r.runtime.add("s1", info).Linux = nil
			if l, err := r.listen(t, "127.0.0.1:0", target.TCP); !errors.Is(err, tunnel.ErrDenied) || !strings.Contains(err.Error(), "(--allow-reverse)") {
				t.Errorf("listen: %v, %v", l, err)
			}
			r.stop()
		})
	}
}

// A tunnel that has fallen silent does not keep its port from the next one of its session, and a pod's end
// ends what is listened on there.
func TestReverseIsTakenOver(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	r := startNode(t, pod, Node{Policy: Policy{AllowReverse: ReverseLoopback}})
	at, session := target.Endpoint{AddrPort: netip.MustParseAddrPort("[::1]:8080")}, tunnel.NewSession()
	first, second := r.tunnelTo(t), r.tunnelTo(t)
	old, err := first.Listen(t.Context(), at, session)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := second.Listen(t.Context(), at, tunnel.NewSession()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("another session: %v, %v", l, err)
	}
	l, err := second.Listen(t.Context(), at, session)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Streams.Accept(); err == nil {
		t.Error("the earlier tunnel listens still")
	}
	go echoBack(l)
	if err := askInPod(t, pod, target.TCPPort(8080)); err != nil {
		t.Error(err)
	}
	pod.Kill()
	if _, err := l.Streams.Accept(); !errors.Is(err, tunnel.ErrNoSandbox) {
		t.Errorf("the pod has ended: %v", err)
	}
	r.stop()
}

// What is listened on goes with its tunnel.
func TestReverseGoesWithClient(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	r := startNode(t, pod, Node{Policy: Policy{AllowReverse: ReverseLoopback}})
	client := r.tunnelTo(t)
	if _, err := client.Listen(t.Context(), target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:8080")}, ""); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	testenv.Await(t, "nobody listens there", func() bool {
		conn, err := pod.NS.Dial(context.Background(), target.TCPPort(8080))
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	r.stop()
}
