package cluster_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"porthole.dev/porthole/test/cluster"
)

func portForward(ctx context.Context, c *cluster.Cluster, kubeconfig string) *exec.Cmd {
	return exec.CommandContext(ctx, c.KubectlPath(), "--kubeconfig", kubeconfig, "port-forward", "--address=127.0.0.1", "pod/hello", ":8080")
}

// forward runs kubectl until the test ends and returns the local address. A kubelet looks
// for a runtime that was restarted a second later, and until then kubectl ends at once.
func forward(t *testing.T, c *cluster.Cluster, kubeconfig string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		address, complaint := tryForward(t, c, kubeconfig)
		if address != "" {
			return address
		}
		if time.Now().After(end) {
			t.Fatal("kubectl: ", complaint)
		}
	}
}

// tryForward returns the local address, or what kubectl said when it ended.
func tryForward(t *testing.T, c *cluster.Cluster, kubeconfig string) (address, complaint string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := portForward(ctx, c, kubeconfig)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if found := regexp.MustCompile(`Forwarding from (\S+) ->`).FindStringSubmatch(line); found != nil {
		t.Cleanup(func() {
			cancel()
			_ = cmd.Wait() // it was killed, and says so
		})
		return found[1], ""
	}
	cancel()
	_ = cmd.Wait()
	return "", line + stderr.String()
}

// wantForbidden wants kubectl to end by itself with a complaint.
func wantForbidden(t *testing.T, c *cluster.Cluster, kubeconfig, complaint string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := portForward(ctx, c, kubeconfig).CombinedOutput()
	if err == nil || !strings.Contains(string(out), complaint) {
		t.Fatalf("kubectl ended with %v, without %q: %s", err, complaint, out)
	}
}

func wantPage(t *testing.T, address, path, want string) {
	t.Helper()
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || string(body) != want {
		t.Fatalf("got %q, %v; want %q", body, err, want)
	}
}

// testRuntimeEndpoint puts a relay between kubelet and containerd and takes it away again.
func testRuntimeEndpoint(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	socket := filepath.Join(t.TempDir(), "cri.sock")
	accepted := relay(t, socket, strings.TrimPrefix(c.RuntimeEndpoint(), "unix://"))
	t.Cleanup(func() { setRuntime(t, context.WithoutCancel(ctx), c, "") })
	setRuntime(t, ctx, c, "unix://"+socket)
	wantPage(t, forward(t, c, c.Kubeconfig()), "/", "hello from hello\n")
	if accepted.Load() == 0 {
		t.Error("the kubelet did not use the socket it was given")
	}
}

func setRuntime(t *testing.T, ctx context.Context, c *cluster.Cluster, endpoint string) {
	t.Helper()
	if err := c.SetRuntimeEndpoint(ctx, endpoint); err != nil {
		t.Fatal(err)
	}
}

// relay copies between two Unix sockets until the test ends, and counts connections.
func relay(t *testing.T, from, to string) *atomic.Int64 {
	t.Helper()
	listener, err := net.Listen("unix", from)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var accepted atomic.Int64
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			running.Go(func() { couple(ctx, client, to) })
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		running.Wait()
	})
	return &accepted
}

// couple ends both connections as soon as one ends; gRPC needs no half-close.
func couple(ctx context.Context, client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	defer server.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
	var copying sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		copying.Go(func() { io.Copy(pair[0], pair[1]); cancel() })
	}
	copying.Wait()
}
