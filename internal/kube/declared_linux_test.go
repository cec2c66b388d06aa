package kube_test

import (
	"fmt"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// Pods, services and workloads are listed with the ports that they declare.
func TestTargets(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newPod("web-1")
	n.create("services", object{"metadata": object{"name": "web"}, "spec": object{"ports": []object{{"name": "http", "port": 80, "targetPort": "http"}}}})
	n.create("deployments", object{"metadata": object{"name": "web"}, "spec": object{
		"replicas": 0, "selector": object{"matchLabels": object{"app": "web"}},
		"template": object{"metadata": object{"labels": object{"app": "web"}}, "spec": object{
			"containers": []object{{"name": "main", "image": "main", "ports": []object{{"containerPort": 9090}}}},
		}},
	}})
	c := n.open(t, "admin", n.name)
	all, err := c.Targets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range all {
		got = append(got, fmt.Sprint(d.Target, " ", d.State, d.Ports))
	}
	want := []string{"pod/web-1 Pending[{tcp 8080 http} {udp 53 dns}]", "svc/web [{tcp 80 http}]", "deploy/web [{tcp 9090 }]"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	ports, err := c.DeclaredPorts(t.Context(), all[1].Target)
	if err != nil || fmt.Sprint(ports) != "[{tcp 80 http}]" {
		t.Errorf("ports of the service: %v, %v", ports, err)
	}
}
