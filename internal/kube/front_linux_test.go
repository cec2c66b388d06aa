package kube_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// front stands before the API server as a load balancer does. It keeps account of the
// requests, and may answer by itself.
type front struct {
	*httptest.Server
	behind *httputil.ReverseProxy

	mu      sync.Mutex
	asked   []asked
	answer  map[string]http.HandlerFunc // by pod: to what would open a tunnel to it
	tunnels map[string][]net.Conn       // by pod
}

// asked is one request.
type asked struct {
	at  time.Time
	pod string // that a tunnel was asked for; else ""
	url *url.URL
}

type connKey struct{}

func newFront(t *testing.T, n *namespace) *front {
	t.Helper()
	to, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	f := &front{answer: map[string]http.HandlerFunc{}, tunnels: map[string][]net.Conn{}}
	f.behind = &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	f.StartTLS()
	t.Cleanup(func() {
		f.cut("")
		f.CloseClientConnections()
		f.Close()
		transport.CloseIdleConnections()
	})
	return f
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := asked{at: time.Now(), url: r.URL}
	parts := strings.Split(r.URL.Path, "/")
	if parts[len(parts)-1] == "portforward" {
		a.pod = parts[len(parts)-2]
	}
	f.mu.Lock()
	f.asked = append(f.asked, a)
	answer := f.answer[a.pod]
	if a.pod != "" && answer == nil {
		f.tunnels[a.pod] = append(f.tunnels[a.pod], r.Context().Value(connKey{}).(net.Conn))
	}
	f.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	f.behind.ServeHTTP(w, r)
}

// refuse has requests for tunnels to a pod answered, nil as the API server does, and
// cuts those that there are.
func (f *front) refuse(pod string, answer http.HandlerFunc) {
	f.mu.Lock()
	f.answer[pod] = answer
	f.mu.Unlock()
	if answer != nil {
		f.cut(pod)
	}
}

// cut closes the tunnels of a pod, or of all.
func (f *front) cut(pod string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, conns := range f.tunnels {
		if pod != "" && name != pod {
			continue
		}
		for _, c := range conns {
			_ = c.Close()
		}
		delete(f.tunnels, name)
	}
}

// since are the requests since a time of which is is true.
func (f *front) since(began time.Time, is func(asked) bool) (all []asked) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if a.at.After(began) && is(a) {
			all = append(all, a)
		}
	}
	return all
}

func forTunnel(a asked) bool { return a.pod != "" }

// cluster is the way through it.
func (f *front) cluster(t *testing.T, n *namespace) *kube.Cluster {
	t.Helper()
	c, err := kube.Open(&kube.Config{Kubeconfig: f.kubeconfig(t, n)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (f *front) kubeconfig(t *testing.T, n *namespace) (path string) {
	t.Helper()
	return writeFile(t, "config", fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: a,
contexts: [{name: a, context: {cluster: c, user: u, namespace: %s}}],
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}],
users: [{name: u, user: {token: token-admin}}]}`, n.name, f.URL))
}

// opened is a route through it that is open.
func (f *front) opened(t *testing.T, c *kube.Cluster, resource, name string) *journey {
	t.Helper()
	j := &journey{t: t}
	j.Route = &kube.Route{Cluster: c, Target: target.Target{Scheme: target.Kubernetes, Resource: resource, Name: name},
		MaxWait: 5 * time.Minute, PodRunningTimeout: testenv.Patience, Events: j.note}
	t.Cleanup(func() { _ = j.Close() })
	j.open()
	return j
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.Error(w, "not now", code)
	}
}
