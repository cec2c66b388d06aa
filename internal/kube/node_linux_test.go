package kube_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

// nodeVar makes this program a node, and not a test. The stock server leaves
// goroutines behind for minutes, which is for a process of its own.
const nodeVar = "PORTHOLE_TEST_NODE"

// node is the end of tunnels: the API server asks it as it asks a kubelet, and the
// code that answers is the stock runtime's. It has the pods of all namespaces.
type node struct {
	mu   sync.Mutex
	down map[string]bool // NAMESPACE/POD to which it refuses to forward
	anew map[string]int  // how often the sandbox of NAMESPACE/POD was made anew
}

// runNode serves until the test that started it is gone.
func runNode() {
	server := httptest.NewTLSServer(&node{down: map[string]bool{}, anew: map[string]int{}})
	fmt.Println(server.Listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// ServeHTTP answers POST /portForward/NAMESPACE/POD, and tests that set whether it does.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	verb, pod, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	n.mu.Lock()
	down, made := n.down[pod], n.anew[pod]
	switch verb {
	case "portForward":
	case "anew":
		n.anew[pod]++
	default:
		n.down[pod] = verb == "down"
	}
	n.mu.Unlock()
	switch _, name, _ := strings.Cut(pod, "/"); {
	case verb != "portForward":
	case down:
		http.Error(w, "the runtime is not there", http.StatusInternalServerError)
	default:
		portforward.ServePortForward(w, r, &sandbox{n, pod, made}, name, "", nil, time.Hour, time.Minute, []string{"portforward.k8s.io"})
	}
}

// sandbox is what a tunnel leads to.
type sandbox struct {
	node *node
	pod  string
	made int
}

// PortForward serves a connection in a pod: it says which pod and port it is, and
// then echoes. Port 1 is refused.
func (s *sandbox) PortForward(_ context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	s.node.mu.Lock()
	now := s.node.anew[s.pod]
	s.node.mu.Unlock()
	if now != s.made { // containerd's words
		return fmt.Errorf("network namespace for sandbox %q is closed", name)
	}
	if port == 1 {
		return fmt.Errorf("connect to port 1: connection refused")
	}
	fmt.Fprintf(stream, "%s:%d\n", name, port)
	_, err := io.Copy(stream, stream)
	return err
}

// startNode starts a node that ends with this process, and returns its port.
func startNode() (port int, end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), nodeVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	_, err = fmt.Fscan(stdout, &port)
	return port, func() { _ = stdin.Close(); _ = cmd.Wait() }, err
}

// tellNode sets whether the node forwards to a pod, up or down, or makes its sandbox anew.
func (n *namespace) tellNode(t testing.TB, state, pod string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/%s/%s/%s", n.nodePort, state, n.name, pod))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}
