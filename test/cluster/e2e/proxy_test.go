package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// proxy is an HTTP proxy to the API server, which is the only one to know its name.
type proxy struct {
	*httptest.Server
	user    string // USER:PASSWORD that it wants, "" for none
	tunnels atomic.Int32
}

// proxied is the API server's name where only the proxy can find it.
const proxied = "porthole-api.invalid:6443"

func newProxy(t *testing.T, user string) *proxy {
	t.Helper()
	p := &proxy{user: user}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// ServeHTTP answers CONNECT, RFC 9110, section 9.3.6.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	credentials := &http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	name, password, _ := credentials.BasicAuth()
	switch {
	case r.Method != http.MethodConnect || r.Host != proxied:
		http.Error(w, "not through here", http.StatusForbidden)
	case p.user != "" && p.user != name+":"+password:
		w.WriteHeader(http.StatusProxyAuthRequired)
	default:
		p.tunnels.Add(1)
		carryProxied(w)
	}
}

func carryProxied(w http.ResponseWriter) {
	server, err := net.Dial("tcp", strings.TrimPrefix(c.Server(), "https://"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	_, _ = io.Copy(client, server)
}

// proxiedKubeconfig is the administrator's with the server's name that only a proxy knows, and fields of its cluster.
func proxiedKubeconfig(t *testing.T, fields ...string) string {
	t.Helper()
	config, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(c.Server(), "https://"))
	cluster := fmt.Sprintf("server: https://%s\n    tls-server-name: %q", proxied, host)
	for _, field := range fields {
		cluster += "\n    " + field
	}
	file := filepath.Join(t.TempDir(), "kubeconfig.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(string(config), "server: "+c.Server(), cluster, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestProxy reaches the API server through an HTTP proxy, wherever it is named, with either protocol of tunnels.
func TestProxy(t *testing.T) {
	needCluster(t)
	for _, user := range []string{"", "ann:open sesame"} {
		through := newProxy(t, user)
		at := strings.Replace(through.URL, "://", "://"+strings.ReplaceAll(user, " ", "%20")+"@", 1)
		plain := []string{"forward", "--kubeconfig", proxiedKubeconfig(t), "svc/web", ":80"}
		for name, args := range map[string][]string{
			"environment": append([]string{"NO_PROXY=", "no_proxy=", "HTTPS_PROXY=" + at}, plain...),
			"SPDY":        append([]string{"NO_PROXY=", "no_proxy=", "HTTPS_PROXY=" + at, "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"}, plain...),
			"kubeconfig":  {"forward", "--kubeconfig", proxiedKubeconfig(t, "proxy-url: "+at), "svc/web", ":80"},
			"flag":        append(plain, "--proxy-url", at),
		} {
			t.Run(name+" "+user, func(t *testing.T) {
				before := through.tunnels.Load()
				p := start(t, args...)
				address := p.address(t, 0)
				wantDownload(t, address, 4<<20)
				if got := who(t, address); !strings.HasPrefix(got, "web-") {
					t.Errorf("got an answer from %s", got)
				}
				if through.tunnels.Load() == before {
					t.Error("nothing came through the proxy")
				}
				p.interrupt(t)
			})
		}
	}
}

// TestProxyAway holds that it is told which part of the way is missing.
func TestProxyAway(t *testing.T) {
	needCluster(t)
	closed := newProxy(t, "")
	closed.Close()
	line := wantFailure(t, "forward", "--kubeconfig", proxiedKubeconfig(t), "--proxy-url", closed.URL, "solo", ":8080")
	wantParts(t, line, strings.TrimPrefix(closed.URL, "http://"), "connection refused")
	locked := newProxy(t, "ann:open sesame")
	line = wantFailure(t, "forward", "--kubeconfig", proxiedKubeconfig(t), "--proxy-url", locked.URL, "solo", ":8080")
	wantParts(t, line, "Proxy Authentication Required")
}
