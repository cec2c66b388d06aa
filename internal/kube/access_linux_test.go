package kube_test

import (
	"errors"
	"fmt"
	"testing"

	"porthole.dev/porthole/internal/kube"
)

// What docs/kubernetes.md says is enough is enough, and all that is beyond it helps.
func TestLeastRights(t *testing.T) {
	for _, test := range []struct {
		target string
		rights []string
	}{
		{"pod/web-1", []string{"get pods", "create pods/portforward"}},
		{"pod/web-1", []string{"get,list,watch pods", "create,get pods/portforward"}},
		{"svc/web", []string{"get services", "list,watch endpointslices.discovery.k8s.io", "create pods/portforward"}},
		{"svc/web", []string{"get services", "list endpointslices.discovery.k8s.io", "create pods/portforward"}},
		{"svc/web", []string{"get services", "list pods", "create pods/portforward"}},
		{"deploy/web", []string{"get deployments.apps", "list pods", "create pods/portforward"}},
		{"sts/web", []string{"get statefulsets.apps", "list,watch pods", "create pods/portforward"}},
	} {
		t.Run(fmt.Sprint(test.target, test.rights), func(t *testing.T) {
			n := newNamespace(t)
			n.grant("poduser", test.rights...)
			n.newWorkload("deployments", "web", 1)
			n.newWorkload("statefulsets", "web", 1)
			n.newService(nil)
			n.newReady("web-1")
			n.setSlice(8080, member{pod: "web-1", ready: true})
			j := n.opened(t, "poduser", test.target)
			if _, err := j.reach(80); err != nil {
				t.Fatal(err)
			}
			// A user who may not watch learns of changes too.
			n.kill("web-1")
			n.newReady("web-1")
			n.setSlice(8080, member{pod: "web-1", ready: true})
			if _, err := j.reach(80); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestForbidden(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 1)
	n.newService(nil)
	n.newReady("web-1")
	n.setSlice(8080, member{pod: "web-1", ready: true})
	n.grant("poduser", "get pods,services")
	n.grant("svcuser", "get services", "get deployments.apps")
	n.grant("svcpods", "get,list pods", "get services", "get deployments.apps")
	for _, test := range []struct{ user, target, verb, resource string }{
		{"nobody", "pod/web-1", "get", "pods"},
		{"nobody", "svc/web", "get", "services"},
		{"nobody", "deploy/web", "get", "deployments.apps"},
		{"svcuser", "svc/web", "list", "endpointslices.discovery.k8s.io"},
		{"svcuser", "deploy/web", "list", "pods"},
		{"svcpods", "pod/web-1", "create", "pods/portforward"},
		{"svcpods", "svc/web", "create", "pods/portforward"},
		{"svcpods", "deploy/web", "create", "pods/portforward"},
	} {
		err := n.route(t, test.user, test.target).Open(t.Context())
		var forbidden *kube.ForbiddenError
		if !errors.As(err, &forbidden) || forbidden.Verb != test.verb || forbidden.Resource != test.resource ||
			forbidden.Namespace != n.name || forbidden.User != test.user {
			t.Errorf("%s as %s: %#v, want %s %s", test.target, test.user, err, test.verb, test.resource)
		}
	}
}
