package kube_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// network is a way to the API server that can be lost. What was open then hears
// nothing any more, not even that it is over: as behind a router that forgot.
type network struct {
	t       testing.TB
	to      string
	address string

	mu     sync.Mutex
	listen net.Listener
	lost   chan struct{} // closed when the network is
	conns  []net.Conn
	work   sync.WaitGroup
}

func newNetwork(t *testing.T, to string) *network {
	t.Helper()
	n := &network{t: t, to: to, address: fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))} // which it gets again
	n.restore()
	t.Cleanup(func() {
		n.lose()
		for _, c := range n.conns {
			_ = c.Close()
		}
		n.work.Wait()
	})
	return n
}

// restore makes it work for new connections.
func (n *network) restore() {
	n.t.Helper()
	l, err := net.Listen("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.address, n.listen, n.lost = l.Addr().String(), l, make(chan struct{})
	lost := n.lost
	n.work.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", n.to)
			if err != nil {
				_ = a.Close()
				continue
			}
			n.mu.Lock()
			n.conns = append(n.conns, a, b)
			n.mu.Unlock()
			n.work.Go(func() { carry(a, b, lost) })
			n.work.Go(func() { carry(b, a, lost) })
		}
	})
}

// carry moves bytes until an end or the loss of the network; then it does not
// close anything.
func carry(to, from net.Conn, lost <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-lost:
			return
		default:
		}
		if n > 0 {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func (n *network) lose() {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.lost:
		return
	default:
	}
	close(n.lost)
	_ = n.listen.Close()
}

func TestNetworkIsLost(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	testenv.NoLeaks(t)
	way := newNetwork(t, n.url[len("https://"):])

	config := &kube.Config{Kubeconfig: n.kubeconfig(t, "admin", n.name)}
	config.Overrides.ClusterInfo.Server = "https://" + way.address
	c, err := kube.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	j := &journey{t: t}
	j.Route = &kube.Route{Cluster: c, Target: target.Target{Scheme: target.Kubernetes, Resource: "deploy", Name: "web"}, Events: j.note}
	defer j.Close()
	j.open()
	j.want(80, "web-1:80")

	way.lose()
	for end := time.Now().Add(testenv.Patience); j.story() == "ready web-1"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the loss of the network is not noticed")
		}
	}
	// Meanwhile the pod is replaced, of which the route cannot know.
	n.newReady("web-2")
	n.kill("web-1")
	came := make(chan error, 1)
	go func() {
		at, err := j.reach(80)
		if err == nil && at != "web-2:80" {
			err = fmt.Errorf("came to %s", at)
		}
		came <- err
	}()
	time.Sleep(3 * time.Second)
	way.restore()
	back := time.Now()
	if err := <-came; err != nil {
		t.Fatal(err)
	}
	t.Logf("a connection came through %v after the network was back", time.Since(back))
	j.awaitStory("ready web-1, reconnecting, ready web-2")
}

// Credentials come from a plugin, for tunnels too, and are renewed by it.
func TestPluginRenewsCredentials(t *testing.T) {
	n := newNamespace(t)
	n.newReady("kuard")
	token := filepath.Join(t.TempDir(), "token")
	plugin := writeFile(t, "plugin", fmt.Sprintf(`#!/bin/sh
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%%s"}}' "$(cat %s)"
`, token))
	if err := os.Chmod(plugin, 0o700); err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "config", fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: a,
contexts: [{name: a, context: {cluster: c, user: u, namespace: %s}}],
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}],
users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: %q, interactiveMode: Never}}}]}`,
		n.name, n.url, n.authority, plugin))
	write := func(text string) {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token-expiring")
	n.grant("expiring", "get pods", "create pods/portforward")
	c, err := kube.Open(&kube.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	j := &journey{t: t}
	j.Route = &kube.Route{Cluster: c, Target: target.Target{Scheme: target.Kubernetes, Resource: "pod", Name: "kuard"}, Events: j.note}
	defer j.Close()
	j.open()
	j.want(80, "kuard:80")

	// The API server knows another token when it is back.
	n.apiServer.kill()
	j.awaitStory("ready kuard, reconnecting")
	known, err := os.ReadFile(n.apiServer.path("tokens.csv"))
	if err != nil {
		t.Fatal(err)
	}
	known = bytes.ReplaceAll(known, []byte("token-expiring,"), []byte("token-renewed,"))
	if err := os.WriteFile(n.apiServer.path("tokens.csv"), known, 0o600); err != nil {
		t.Fatal(err)
	}
	write("token-renewed")
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	j.want(80, "kuard:80")
	j.awaitStory("ready kuard, reconnecting, ready kuard")
}
