package kube_test

import (
	"fmt"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestComplete(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web-1")
	n.newReady("web-2")
	n.newReady("db-0")
	n.newService(nil)
	n.newWorkload("deployments", "web", 1)
	c := n.open(t, "admin", n.name)
	for prefix, want := range map[string]string{
		"we":        "[web-1 web-2]",
		"d":         "[db-0 deploy/ ds/]",
		"pod/web":   "[pod/web-1 pod/web-2]",
		"svc/":      "[svc/web]",
		"service/w": "[service/web]",
		"deploy/w":  "[deploy/web]",
		"sts/":      "[]",
		"nope/":     "[]",
	} {
		if got := fmt.Sprint(c.CompleteTargets(t.Context(), "", prefix)); got != want {
			t.Errorf("%q: %s, want %s", prefix, got, want)
		}
	}
	for prefix, want := range map[string]string{"kube-sy": "[kube-system]", n.name: "[" + n.name + "]", "nope-": "[]"} {
		if got := fmt.Sprint(c.CompleteNamespaces(t.Context(), prefix)); got != want {
			t.Errorf("namespaces %q: %s, want %s", prefix, got, want)
		}
	}
	for to, want := range map[string]string{"svc/web": "[80\thttp]", "pod/web-1": "[8080\thttp]", "deploy/web": "[8080\thttp]", "pod/x": "[]"} {
		parsed, err := target.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.CompletePorts(t.Context(), "", parsed, "")); got != want {
			t.Errorf("ports of %s: %q, want %q", to, got, want)
		}
	}
}
