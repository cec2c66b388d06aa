package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// metricsAddress is where a node under test tells its numbers.
const metricsAddress = "127.0.0.1:29753"

// node is a `porthole node` between the kubelet and containerd. It can be ended and started again, with other flags.
type node struct {
	*program
	dir string // of its sockets
}

// startNode puts a `porthole node` before containerd and points the kubelet at it, until the test has ended.
// Environment variables stand before its flags.
func startNode(t *testing.T, ctx context.Context, args ...string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "porthole-node-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir}
	t.Cleanup(func() {
		if n.program == nil {
			return
		}
		if err := c.SetRuntimeEndpoint(context.Background(), ""); err != nil {
			t.Error(err)
		}
		n.kill(t) // after the kubelet has left it
		os.RemoveAll(dir)
	})
	n.start(t, args...)
	if err := c.SetRuntimeEndpoint(ctx, "unix://"+n.socket("cri")); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) socket(name string) string { return filepath.Join(n.dir, name+".sock") }

// start starts it and returns when it serves. It ends with the test that has made the node.
func (n *node) start(t *testing.T, args ...string) {
	t.Helper()
	flags := 0
	for flags < len(args) && !strings.HasPrefix(args[flags], "-") {
		flags++
	}
	line := append(slices.Clone(args[:flags]), "node", "-v", "4",
		"--cri-listen", "unix://"+n.socket("cri"), "--cri-upstream", c.RuntimeEndpoint(),
		"--events", "unix://"+n.socket("events"), "--metrics-address", metricsAddress)
	n.program = launch(t, command(porthole, append(line, args[flags:]...)...))
	eventually(t, 10*time.Second, "porthole node serves", func() bool {
		conn, err := net.Dial("unix", n.socket("cri"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// dataPath is the number of the process that carries its forwards.
func (n *node) dataPath(t *testing.T) (pid int) {
	t.Helper()
	eventually(t, 10*time.Second, "the node has a data path", func() bool {
		for _, child := range children(t, n.cmd.Process.Pid) {
			if name, _ := os.ReadFile("/proc/" + child + "/comm"); string(name) == "porthole-data\n" {
				pid, _ = strconv.Atoi(child)
			}
		}
		return pid != 0
	})
	return pid
}

// again ends it and starts it with other flags. The kubelet finds back by itself.
func (n *node) again(t *testing.T, args ...string) {
	t.Helper()
	n.interrupt(t)
	n.start(t, args...)
	awaitForward(t)
}

// awaitForward returns when ports can be forwarded.
func awaitForward(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "a port can be forwarded", func() bool {
		return command(porthole, "forward", "--quiet", "pod/solo", ":8080", "--", "true").Run() == nil
	})
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	limit = max(limit, patience)
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", limit, what)
		}
	}
}

// metric is the sum of a metric over those of its rows whose labels have the text.
func metric(t *testing.T, name, labels string) (sum float64) {
	t.Helper()
	resp, err := http.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		row, value, _ := strings.Cut(lines.Text(), " ")
		if base, rest, _ := strings.Cut(row, "{"); base == name && strings.Contains(rest, labels) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// forwarder is a way in which people forward.
type forwarder struct {
	name    string
	program string
	args    []string
}

// forwarders are porthole and every kubectl at hand, each over both kinds of tunnel.
func forwarders() []forwarder {
	var all []forwarder
	for _, kind := range []struct{ name, variable string }{
		{"WebSocket", "KUBECTL_PORT_FORWARD_WEBSOCKETS=true"},
		{"SPDY", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"},
	} {
		all = append(all, forwarder{"porthole over " + kind.name, porthole, []string{kind.variable, "forward"}})
		for i, path := range kubectls() {
			name := fmt.Sprintf("kubectl %d over %s", i, kind.name)
			all = append(all, forwarder{name, path, []string{kind.variable, "port-forward"}})
		}
	}
	return all
}

// kubectls are the cluster's and, if it has one, the machine's.
func kubectls() []string {
	all := []string{c.KubectlPath()}
	if machines, err := exec.LookPath("kubectl"); err == nil {
		all = append(all, machines)
	}
	return all
}

// isKubectl tells it from porthole.
func (f forwarder) isKubectl() bool { return f.program != porthole }

// start forwards; args are a target, ports and flags.
func (f forwarder) start(t *testing.T, args ...string) *program {
	t.Helper()
	return startCommand(t, command(f.program, append(slices.Clone(f.args), args...)...))
}
