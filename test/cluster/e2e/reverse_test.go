package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// serveHere answers the first line of whoever connects on this machine, and returns the port.
func serveHere(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(int(testenv.ServeTCP(t, func(conn *net.TCPConn) {
		line, _ := bufio.NewReader(conn).ReadString('\n') // a stock node passes on no end of file
		fmt.Fprintf(conn, "here: %s", line)
	})))
}

// startReverse starts a porthole that listens in a pod, and returns when it does.
func startReverse(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := launch(t, cmd)
	t.Cleanup(func() { p.kill(t) })
	p.await(t, p.stdout, `(?m)^Forwarding from 127\.0\.0\.1:\d+(/udp)? of .* here$`)
	return p
}

// awaitHere waits until a program in the target's pod arrives at this machine by a port there: `porthole
// forward` connects to it inside.
func awaitHere(t *testing.T, target, port string) {
	t.Helper()
	f := start(t, "forward", target, ":"+port)
	address := f.address(t, 0)
	eventually(t, patience, "what connects to port "+port+" in "+target+" arrives here", func() bool {
		answer, err := say(address, "hello\n")
		return err == nil && answer == "here: hello\n"
	})
	f.interrupt(t)
}

// TestReverse brings programs in pods to a server of this machine, through a node that lets them.
func TestReverse(t *testing.T) {
	ctx := needCluster(t)
	n := startNode(t, ctx, "--allow-reverse=loopback")
	port := serveHere(t)
	t.Run("rollout", func(t *testing.T) { reverseRollout(t, needCluster(t), port) })
	t.Run("silence", func(t *testing.T) { reverseSilence(t, port) })
	t.Run("killed", func(t *testing.T) { reverseKilled(t, port) })
	t.Run("UDP", reverseUDP)
	t.Run("denied", func(t *testing.T) { reverseDenied(t, port) })
	t.Run("node again", func(t *testing.T) { reverseNodeAgain(t, n, port) })
}

// reverseRollout: when the pod is replaced, the new one is listened at.
func reverseRollout(t *testing.T, ctx context.Context, port string) {
	applyReady(t, ctx, "reversed", 1)
	p := startReverse(t, command(porthole, "reverse", "deploy/reversed", "9999:"+port))
	awaitHere(t, "deploy/reversed", "9999")
	old := kubectl(t, ctx, "get", "pods", "-l", "app=reversed", "-o", "jsonpath={.items[0].metadata.name}")
	kubectl(t, ctx, "rollout", "restart", "deploy/reversed")
	kubectl(t, ctx, "rollout", "status", "deploy/reversed", "--timeout=180s")
	awaitHere(t, "deploy/reversed", "9999")
	kubectl(t, ctx, "wait", "--for=delete", "pod/"+old, "--timeout=180s")
	awaitHere(t, "deploy/reversed", "9999")
	p.interrupt(t)
}

// reverseSilence: a tunnel that nothing passes any more does not keep its port from the next one.
func reverseSilence(t *testing.T, port string) {
	w := newWay(t)
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(c.Server(), "https://"))
	startReverse(t, command(porthole, "reverse", "--server", "https://"+w.listener.Addr().String(), "--tls-server-name", host,
		"--silence", "3s", "pod/solo", "9998:"+port))
	awaitHere(t, "pod/solo", "9998")
	w.lose()
	awaitHere(t, "pod/solo", "9998")
}

// reverseKilled: the port is free within seconds of porthole's death.
func reverseKilled(t *testing.T, port string) {
	p := startReverse(t, command(porthole, "reverse", "pod/solo", "9997:"+port))
	if out, err := command(porthole, "reverse", "pod/solo", "9997:"+port).CombinedOutput(); err == nil || !strings.Contains(string(out), "address already in use (hint: `ss -ltnp` inside") {
		t.Errorf("a port in use: %v, %s", err, out)
	}
	p.kill(t)
	eventually(t, patience, "the port is free", func() bool {
		return command(porthole, "reverse", "pod/solo", "9997:"+port, "--", "true").Run() == nil
	})
}

// reverseUDP: datagrams.
func reverseUDP(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for p := make([]byte, 1500); ; {
			n, from, err := l.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(p[:n], from)
		}
	}()
	_, port, _ := net.SplitHostPort(l.LocalAddr().String())
	startReverse(t, command(porthole, "reverse", "pod/solo", "5353:"+port+"/udp"))
	f := start(t, "forward", "pod/solo", ":5353/udp")
	if answer := askUDP(t, strings.TrimSuffix(f.address(t, 0), "/udp"), "hello"); answer != "hello" {
		t.Errorf("by UDP: %q", answer)
	}
}

// reverseDenied: what the node does not allow reaches the user in words.
func reverseDenied(t *testing.T, port string) {
	for words, args := range map[string][]string{
		"--allow-reverse=loopback": {"--listen", "0.0.0.0", "pod/solo", "9996:" + port},
		"--allow-reverse":          {"--listen", "::", "pod/solo", "9996:" + port},
	} {
		out, err := command(porthole, append([]string{"reverse"}, args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), words) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
}

// reverseNodeAgain: a node that starts again is listened through again.
func reverseNodeAgain(t *testing.T, n *node, port string) {
	startReverse(t, command(porthole, "reverse", "pod/solo", "9995:"+port))
	awaitHere(t, "pod/solo", "9995")
	n.again(t, "--allow-reverse=any")
	awaitHere(t, "pod/solo", "9995")
	n.again(t)
	out, err := command(porthole, "reverse", "pod/solo", "9994:"+port).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "(--allow-reverse)") {
		t.Errorf("a node that does not allow it: %v, %s", err, out)
	}
}

// TestReverseByAgent does the same on a stock node, by an agent in the pod, and through a rollout.
func TestReverseByAgent(t *testing.T) {
	ctx, config := needAgents(t)
	port := serveHere(t)
	applyReady(t, ctx, "agented", 1)
	startReverse(t, command(porthole, "XDG_CONFIG_HOME="+config, "reverse", "--agent-image", agentImage(t),
		"--agent-image-pull-policy", "Never", "deploy/agented", "9999:"+port))
	awaitHere(t, "deploy/agented", "9999")
	kubectl(t, ctx, "rollout", "restart", "deploy/agented")
	kubectl(t, ctx, "rollout", "status", "deploy/agented", "--timeout=180s")
	awaitHere(t, "deploy/agented", "9999")
}

// way leads to the API server. What has gone through it can be lost: it hears nothing any more, also not that it is
// over, while new connections work, as behind a router that has forgotten.
type way struct {
	listener net.Listener
	mu       sync.Mutex
	lost     chan struct{} // closed when the connections up to now are
}

func newWay(t *testing.T) *way {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{listener: l, lost: make(chan struct{})}
	var open sync.Map
	t.Cleanup(func() {
		l.Close()
		for conn := range open.Range {
			conn.(net.Conn).Close()
		}
	})
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(c.Server(), "https://"))
			if err != nil {
				near.Close()
				continue
			}
			open.Store(near, nil)
			open.Store(far, nil)
			w.mu.Lock()
			lost := w.lost
			w.mu.Unlock()
			go carryUntil(lost, far, near)
			go carryUntil(lost, near, far)
		}
	}()
	return w
}

// carryUntil moves bytes until an end, or until they are lost.
func carryUntil(lost <-chan struct{}, to, from net.Conn) {
	for buffer := make([]byte, 32<<10); ; {
		n, err := from.Read(buffer)
		select {
		case <-lost:
			return
		default:
		}
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			to.Close()
			return
		}
	}
}

func (w *way) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.lost)
	w.lost = make(chan struct{})
}
