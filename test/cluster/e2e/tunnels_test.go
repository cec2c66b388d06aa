package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/test/cluster"
)

// nodeThousand opens 1,000 connections at once through one session of each client, all of which live at the same time.
func nodeThousand(t *testing.T, _ context.Context, _ *node) {
	for _, f := range forwarders() {
		t.Run(f.name, func(t *testing.T) {
			p := f.start(t, "pod/solo", ":8080")
			address := p.address(t, 0)
			wantAtOnce(t, address, 1000)
			who(t, address)
			p.interrupt(t)
		})
	}
}

// wantAtOnce opens n connections at once, has each echo, and each once more when all are open.
func wantAtOnce(t *testing.T, address string, n int) {
	t.Helper()
	began := time.Now()
	var all, opened sync.WaitGroup
	failed := make(chan error, n)
	hold := make(chan struct{})
	for range n {
		opened.Add(1)
		all.Go(func() { failed <- echoHeld(address, opened.Done, hold) })
	}
	opened.Wait()
	t.Logf("%d connections had their first byte after %v", n, time.Since(began).Round(time.Millisecond))
	close(hold)
	all.Wait()
	close(failed)
	lost := 0
	for err := range failed {
		if err != nil {
			lost++
			t.Log(err)
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d connections failed", lost, n)
	}
}

// TestSandbox holds that a pod whose sandbox is made anew is reached again at once, on a stock node.
func TestSandbox(t *testing.T) {
	ctx := needCluster(t)
	p := madeAnew(t, ctx, forwarder{name: "porthole", program: porthole, args: []string{"forward"}})
	p.interrupt(t)
}

// nodeSandbox is that with `porthole node`, which also ends the session of a client that could not follow.
func nodeSandbox(t *testing.T, ctx context.Context, _ *node) {
	t.Run("porthole", func(t *testing.T) {
		p := madeAnew(t, ctx, forwarder{name: "porthole", program: porthole, args: []string{"forward"}})
		p.interrupt(t)
	})
	t.Run("kubectl", func(t *testing.T) {
		newSandbox(t, ctx, "again")
		p := startCommand(t, command(c.KubectlPath(), "port-forward", "pod/again", ":8080"))
		who(t, p.address(t, 0))
		newSandbox(t, ctx, "again")
		p.await(t, p.stderr, "lost connection to pod")
	})
}

// madeAnew forwards to a pod while its sandbox is made anew, and wants connections that are made from then on to work.
func madeAnew(t *testing.T, ctx context.Context, f forwarder) *program {
	t.Helper()
	newSandbox(t, ctx, "anew")
	p := f.start(t, "pod/anew", ":8080")
	address := p.address(t, 0)
	var warm sync.WaitGroup // so that there are several tunnels
	for range 5 {
		warm.Go(func() {
			if _, err := say(address, "who\n"); err != nil {
				t.Error(err)
			}
		})
	}
	warm.Wait()
	newSandbox(t, ctx, "anew")
	began := time.Now()
	for range 10 {
		if got := who(t, address); got != "anew" {
			t.Errorf("got an answer from %s", got)
		}
	}
	t.Logf("10 connections took %v", time.Since(began).Round(time.Millisecond))
	return p
}

// newSandbox makes a pod, or, if it is there, kills what its sandbox is made of. It returns when the pod is ready.
func newSandbox(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	address := func() string {
		return kubectl(t, ctx, "get", "pod", name, "--ignore-not-found", "-o", "jsonpath={.status.podIP}")
	}
	old := address()
	if old == "" {
		apply(t, ctx, pod(name, pods))
	} else if err := syscall.Kill(pauseOf(t, old), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the pod has another sandbox", func() bool { now := address(); return now != "" && now != old })
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=180s")
}

// pauseOf is the process that holds the sandbox with an address.
func pauseOf(t *testing.T, address string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		name, _ := os.ReadFile(path)
		routes, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "net/fib_trie"))
		if strings.TrimSpace(string(name)) == "pause" && strings.Contains(string(routes), address+"\n") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no sandbox has the address %s", address)
	return 0
}

// nodeSilence has the network fall silent under a connection, which ends then, otherwise than cleanly.
func nodeSilence(t *testing.T, _ context.Context, _ *node) {
	n := newNetwork(t)
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(c.Server(), "https://"))
	p := start(t, "forward", "--silence", "3s", "--server", "https://"+n.listener.Addr().String(), "--tls-server-name", host, "solo", ":8080")
	address := p.address(t, 0)
	live := newEchoer(t, address)
	if _, err := live.round(); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	began := time.Now()
	_, err := live.round()
	wantReset(t, "", err)
	t.Logf("the connection ended after %v: %v", time.Since(began).Round(time.Millisecond), err)
	n.mu.Unlock()
	who(t, address)
}

// TestWebSocketsEndInAPIServer has the API server turn WebSockets into SPDY by itself, as it did before 1.36, and
// holds that every client is served as it is where the kubelet does that.
func TestWebSocketsEndInAPIServer(t *testing.T) {
	ctx := needCluster(t)
	handWebSocketsOn(t, ctx, false)
	translated := func() string {
		var lines []string
		for line := range strings.Lines(kubectl(t, ctx, "get", "--raw", "/metrics")) {
			if strings.Contains(line, "translated_at_apiserver") && strings.Contains(line, "portforward") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	before := translated()
	served := func(t *testing.T) {
		for _, f := range forwarders() {
			t.Run(f.name, func(t *testing.T) {
				p := f.start(t, "pod/solo", ":8080")
				address := p.address(t, 0)
				wantDownload(t, address, 8<<20)
				wantUpload(t, address, 8<<20)
				p.interrupt(t)
			})
		}
	}
	t.Run("stock", served)
	if translated() == before {
		t.Error("the API server has turned no WebSocket into SPDY")
	}
	startNode(t, ctx)
	t.Run("porthole node", served)
}

// handWebSocketsOn sets whether API server and kubelet agree on the kubelet's taking WebSockets, until the test ends.
func handWebSocketsOn(t *testing.T, ctx context.Context, yes bool) {
	t.Helper()
	set := func(ctx context.Context, args ...string) error {
		var failed []error
		for _, name := range []cluster.Component{cluster.APIServer, cluster.Kubelet} {
			failed = append(failed, c.SetArgs(name, args...), c.Restart(ctx, name))
		}
		return errors.Join(append(failed, c.WaitReady(ctx))...)
	}
	t.Cleanup(func() {
		if err := set(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := set(ctx, fmt.Sprintf("--feature-gates=ExtendWebSocketsToKubelet=%v", yes)); err != nil {
		t.Fatal(err)
	}
}
