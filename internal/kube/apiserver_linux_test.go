package kube_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/testenv"
)

// binVar names the folder that holds etcd and kube-apiserver.
const binVar = "PORTHOLE_CLUSTER_BIN"

// apiServer is a real API server with its etcd, and nothing else of a cluster: no
// controller and no scheduler does anything, so that tests can be all of them.
type apiServer struct {
	dir, bin  string
	url       string
	etcd      *exec.Cmd
	server    *exec.Cmd
	client    *http.Client
	ports     [3]int // API server, etcd for clients, etcd for peers
	authority string // PEM, in base64
	nodePort  int
	endNode   func()
}

// nodeName is the only node's.
const nodeName = "node"

// shared is the package's API server; starting one takes seconds.
var shared = sync.OnceValues(startAPIServer)

func TestMain(m *testing.M) {
	if os.Getenv(nodeVar) != "" {
		runNode()
		return
	}
	code := m.Run()
	if os.Getenv(binVar) != "" {
		if s, err := shared(); err == nil {
			s.stop()
		}
	}
	os.Exit(code)
}

// newAPIServer returns the shared API server, or skips the test.
func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	if os.Getenv(binVar) == "" {
		testenv.Lacking(t, "a compiled Kubernetes, for its API server: `make cluster-build`, which takes a quarter of an hour once; "+binVar+" is where it is")
	}
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// users are those that the API server knows, by a token that is "token-" and their
// name. All but admin may do only what RBAC grants them.
func users() []string {
	return []string{"admin", "nobody", "poduser", "svcuser", "svcpods", "expiring"}
}

func startAPIServer() (*apiServer, error) {
	dir, err := os.MkdirTemp("", "kube-test")
	if err != nil {
		return nil, err
	}
	s := &apiServer{dir: dir, bin: os.Getenv(binVar)}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if s.etcd, err = s.run("etcd", s.etcdArgs()...); err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		s.stop()
		return nil, err
	}
	if err := s.trust(); err != nil {
		s.stop()
		return nil, err
	}
	return s, s.addNode()
}

// prepare chooses ports, and writes tokens and the key of service accounts.
func (s *apiServer) prepare() error {
	for i := range s.ports {
		port, _, err := testenv.ReservePort() // until this process ends
		if err != nil {
			return err
		}
		s.ports[i] = int(port)
	}
	s.url = fmt.Sprintf("https://127.0.0.1:%d", s.ports[0])
	s.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}
	var tokens bytes.Buffer
	for _, name := range users() {
		group := "users"
		if name == "admin" {
			group = "system:masters"
		}
		fmt.Fprintf(&tokens, "token-%s,%s,%s,%s\n", name, name, name, group)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path("sa.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.path("tokens.csv"), tokens.Bytes(), 0o600)
}

func (s *apiServer) path(name string) string { return filepath.Join(s.dir, name) }

func (s *apiServer) etcdArgs() []string {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", s.ports[1]), fmt.Sprintf("http://127.0.0.1:%d", s.ports[2])
	return []string{
		"--name=t", "--data-dir=" + s.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=t=" + peer,
	}
}

func (s *apiServer) run(name string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(s.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// start starts the API server and waits until it serves.
func (s *apiServer) start() (err error) {
	s.server, err = s.run("kube-apiserver",
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", s.ports[1]),
		fmt.Sprintf("--secure-port=%d", s.ports[0]), "--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--cert-dir="+s.dir, "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
		"--token-auth-file="+s.path("tokens.csv"), "--anonymous-auth=false", "--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=https://test", "--service-account-key-file="+s.path("sa.key"),
		"--service-account-signing-key-file="+s.path("sa.key"), "--kubelet-preferred-address-types=InternalIP",
		"--shutdown-watch-termination-grace-period=1s", "--profiling=false")
	if err != nil {
		return err
	}
	return s.awaitReady()
}

func (s *apiServer) awaitReady() error {
	var last error
	for end := time.Now().Add(3 * testenv.Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, last = s.call(http.MethodGet, "/readyz", nil); last == nil {
			return nil
		}
	}
	return fmt.Errorf("the API server does not get ready: %w", last)
}

// trust learns the authority that the API server made for itself.
func (s *apiServer) trust() error {
	cert, err := os.ReadFile(s.path("apiserver.crt"))
	s.authority = base64.StdEncoding.EncodeToString(cert)
	return err
}

// addNode starts the node and tells the API server of it.
func (s *apiServer) addNode() (err error) {
	if s.nodePort, s.endNode, err = startNode(); err != nil {
		return err
	}
	if _, err := s.call(http.MethodPost, "/api/v1/nodes", object{"metadata": object{"name": nodeName}}); err != nil {
		return err
	}
	_, err = s.call(http.MethodPatch, "/api/v1/nodes/"+nodeName+"/status", object{"status": object{
		"addresses":       []object{{"type": "InternalIP", "address": "127.0.0.1"}},
		"daemonEndpoints": object{"kubeletEndpoint": object{"Port": s.nodePort}},
	}})
	return err
}

// kill ends the API server as a crash would.
func (s *apiServer) kill() {
	_ = s.server.Process.Kill()
	_ = s.server.Wait()
}

func (s *apiServer) stop() {
	if s.endNode != nil {
		s.endNode()
	}
	s.kill()
	_ = s.etcd.Process.Kill()
	_ = s.etcd.Wait()
	_ = os.RemoveAll(s.dir)
}

// call makes a request as admin.
func (s *apiServer) call(method, path string, body any) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer token-admin")
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer, err
}

// must is call for what has to succeed.
func (s *apiServer) must(t testing.TB, method, path string, body any) []byte {
	t.Helper()
	answer, err := s.call(method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// kubeconfig writes one for a user and returns its path.
func (s *apiServer) kubeconfig(t testing.TB, user, namespace string) string {
	t.Helper()
	return writeFile(t, "config", fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {cluster: test, user: user, namespace: %s}
clusters:
- name: test
  cluster: {server: %s, certificate-authority-data: %s}
users:
- name: user
  user: {token: token-%s}
`, namespace, s.url, s.authority, user))
}

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open returns a Cluster for a user that ends with the test.
func (s *apiServer) open(t testing.TB, user, namespace string) *kube.Cluster {
	t.Helper()
	c, err := kube.Open(&kube.Config{Kubeconfig: s.kubeconfig(t, user, namespace)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
