package kube_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

// A server that does not list all resources at once, as those before Kubernetes 1.27, is
// asked group by group.
func TestOlderDiscovery(t *testing.T) {
	n := newNamespace(t)
	n.create("configmaps", object{"metadata": object{"name": "web"}})
	to, err := url.Parse(n.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			if r.In.URL.Path == "/api" || r.In.URL.Path == "/apis" {
				r.Out.Header.Set("Accept", "application/json")
			}
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	older := httptest.NewTLSServer(proxy)
	defer older.Close()
	config := &kube.Config{Kubeconfig: n.kubeconfig(t, "admin", n.name)}
	config.Overrides.ClusterInfo.Server = older.URL
	config.Overrides.ClusterInfo.InsecureSkipTLSVerify = true
	c, err := kube.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for resource, want := range map[string]error{
		"configmap": kube.ErrNoPods, "cm": kube.ErrNoPods, "networkpolicies.v1.networking.k8s.io": kube.ErrNotFound,
		"nodes": kube.ErrNoPods, "nope": kube.ErrUnknownResource,
	} {
		r := &kube.Route{Cluster: c, Target: target.Target{Scheme: target.Kubernetes, Resource: resource, Name: "web"}}
		if err := r.Open(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", resource, err, want)
		}
	}
}
