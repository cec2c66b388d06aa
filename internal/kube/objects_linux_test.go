package kube_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// namespace is one of the API server's for a test alone, which plays kubelet and
// controllers in it.
type namespace struct {
	*apiServer
	t    testing.TB
	name string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	s := newAPIServer(t)
	var made struct{ Metadata struct{ Name string } }
	answer := s.must(t, http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"generateName": "test-"}})
	if err := json.Unmarshal(answer, &made); err != nil {
		t.Fatal(err)
	}
	n := &namespace{apiServer: s, t: t, name: made.Metadata.Name}
	return n
}

// object is one in JSON.
type object map[string]any

func (n *namespace) path(resource string) string {
	root := "/api/v1"
	switch resource, _, _ := strings.Cut(resource, "/"); resource {
	case "deployments", "replicasets", "statefulsets", "daemonsets":
		root = "/apis/apps/v1"
	case "jobs":
		root = "/apis/batch/v1"
	case "endpointslices":
		root = "/apis/discovery.k8s.io/v1"
	case "roles", "rolebindings":
		root = "/apis/rbac.authorization.k8s.io/v1"
	case "widgets":
		root = "/apis/example.com/v1"
	}
	return root + "/namespaces/" + n.name + "/" + resource
}

func (n *namespace) create(resource string, o object) {
	n.t.Helper()
	n.must(n.t, http.MethodPost, n.path(resource), o)
}

// podSpec has two ports with names, and one for UDP.
func podSpec(http int) object {
	return object{
		"nodeName": nodeName, "terminationGracePeriodSeconds": 30,
		"containers": []object{{"name": "main", "image": "main", "ports": []object{
			{"name": "http", "containerPort": http},
			{"name": "dns", "containerPort": 53, "protocol": "UDP"},
		}}},
	}
}

// newPod makes a pod of app=web that waits to be started.
func (n *namespace) newPod(name string) {
	n.t.Helper()
	n.create("pods", object{"metadata": object{"name": name, "labels": object{"app": "web"}}, "spec": podSpec(8080)})
}

// newReady makes a pod that is ready.
func (n *namespace) newReady(name string) {
	n.t.Helper()
	n.newPod(name)
	n.setReady(name, true)
}

// setReady makes a pod run, ready or not.
func (n *namespace) setReady(name string, ready bool) {
	n.t.Helper()
	condition := object{"type": "Ready", "status": "True"}
	if !ready {
		condition = object{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [main]"}
	}
	n.setStatus(name, object{
		"phase": "Running", "conditions": []object{condition},
		"containerStatuses": []object{{"name": "main", "ready": ready, "image": "main", "imageID": "main", "restartCount": 0,
			"state": object{"running": object{}}}},
	})
}

func (n *namespace) setStatus(pod string, status object) {
	n.t.Helper()
	n.must(n.t, http.MethodPatch, n.path("pods/"+pod+"/status"), object{"status": status})
}

// terminate asks for a pod's end; it stays, until kill.
func (n *namespace) terminate(pod string) {
	n.t.Helper()
	n.must(n.t, http.MethodDelete, n.path("pods/"+pod), nil)
}

// kill makes a pod disappear.
func (n *namespace) kill(pod string) {
	n.t.Helper()
	n.must(n.t, http.MethodDelete, n.path("pods/"+pod), object{"gracePeriodSeconds": 0})
}

// newWorkload makes one of the kinds that have pods of app=web.
func (n *namespace) newWorkload(resource, name string, replicas int) {
	n.t.Helper()
	labels := object{"app": "web"}
	spec := object{
		"selector": object{"matchLabels": labels},
		"template": object{"metadata": object{"labels": labels}, "spec": object{
			"containers": []object{{"name": "main", "image": "main", "ports": []object{{"name": "http", "containerPort": 8080}}}}}},
	}
	if resource != "daemonsets" {
		spec["replicas"] = replicas
	}
	if resource == "statefulsets" {
		spec["serviceName"] = "web"
	}
	n.create(resource, object{"metadata": object{"name": name}, "spec": spec})
}

// newService makes the service web with port 80 named http, and 53 for UDP.
func (n *namespace) newService(more object) {
	n.t.Helper()
	spec := object{
		"selector": object{"app": "web"},
		"ports": []object{
			{"name": "http", "port": 80, "targetPort": "http"},
			{"name": "dns", "port": 53, "protocol": "UDP"},
		},
	}
	for key, value := range more {
		spec[key] = value
	}
	n.create("services", object{"metadata": object{"name": "web"}, "spec": spec})
}

// member is a pod in a service's slice.
type member struct {
	pod                string
	ready, terminating bool
}

// setSlice makes or replaces the service's slice.
func (n *namespace) setSlice(port int, members ...member) {
	n.t.Helper()
	endpoints := []object{}
	for _, m := range members {
		endpoints = append(endpoints, n.endpoint(m.pod, object{"ready": m.ready, "terminating": m.terminating}))
	}
	n.putSlice("web-1", slice(endpoints, tcpPort("http", port)))
}

// endpoint is a pod's, as in a slice.
func (n *namespace) endpoint(pod string, conditions object) object {
	n.t.Helper()
	return object{
		"addresses": []string{"10.1.0.1"}, "conditions": conditions,
		"targetRef": object{"kind": "Pod", "name": pod, "namespace": n.name, "uid": n.uid(pod)},
	}
}

// ready are the endpoints of pods that are ready.
func (n *namespace) ready(pods ...string) []object {
	n.t.Helper()
	endpoints := []object{}
	for i, pod := range pods {
		e := n.endpoint(pod, object{"ready": true})
		e["addresses"] = []string{fmt.Sprintf("10.1.0.%d", i+1)}
		endpoints = append(endpoints, e)
	}
	return endpoints
}

// slice is one of the service web.
func slice(endpoints []object, ports ...object) object {
	return object{"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
}

// tcpPort is one of a slice or a service.
func tcpPort(name string, port int) object {
	return object{"name": name, "port": port, "protocol": "TCP"}
}

// putSlice makes or replaces a slice of the service web.
func (n *namespace) putSlice(name string, s object) {
	n.t.Helper()
	s["metadata"] = object{"name": name, "labels": object{"kubernetes.io/service-name": "web"}}
	if _, err := n.call(http.MethodPost, n.path("endpointslices"), s); err != nil {
		n.must(n.t, http.MethodPut, n.path("endpointslices/"+name), s)
	}
}

// setPorts replaces the ports of the service web.
func (n *namespace) setPorts(ports ...object) {
	n.t.Helper()
	n.must(n.t, http.MethodPatch, n.path("services/web"), object{"spec": object{"ports": ports}})
}

// newPodOf makes a pod of app=web that is ready, with these named ports.
func (n *namespace) newPodOf(name string, ports ...object) {
	n.t.Helper()
	n.create("pods", object{"metadata": object{"name": name, "labels": object{"app": "web"}}, "spec": object{
		"nodeName": nodeName, "containers": []object{{"name": "main", "image": "main", "ports": ports}}}})
	n.setReady(name, true)
}

func (n *namespace) uid(pod string) string {
	n.t.Helper()
	var o struct{ Metadata struct{ UID string } }
	if err := json.Unmarshal(n.must(n.t, http.MethodGet, n.path("pods/"+pod), nil), &o); err != nil {
		n.t.Fatal(err)
	}
	return o.Metadata.UID
}

// grant gives a user rights in the namespace, each "VERB,VERB RESOURCE".
func (n *namespace) grant(user string, rights ...string) {
	n.t.Helper()
	rules := []object{}
	for _, right := range rights {
		verbs, resource, _ := strings.Cut(right, " ")
		resource, sub, _ := strings.Cut(resource, "/")
		resource, group, _ := strings.Cut(resource, ".")
		if sub != "" {
			resource += "/" + sub
		}
		rules = append(rules, object{"verbs": strings.Split(verbs, ","), "apiGroups": []string{group}, "resources": []string{resource}})
	}
	n.create("roles", object{"metadata": object{"name": user}, "rules": rules})
	n.create("rolebindings", object{"metadata": object{"name": user},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
		"subjects": []object{{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}}})
}
