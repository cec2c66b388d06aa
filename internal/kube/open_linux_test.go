package kube_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestNotReady(t *testing.T) {
	n := newNamespace(t)
	crashed := waiting("CrashLoopBackOff", "back-off 10s restarting failed container")
	crashed["lastState"] = object{"terminated": object{"exitCode": 3, "reason": "Error"}}
	for name, test := range map[string]struct {
		status object
		want   string
		slow   bool // passes by itself, so that it is waited for
	}{
		"crash": {object{"phase": "Running", "containerStatuses": []object{crashed}},
			"pod crash is NotReady, container main: CrashLoopBackOff: back-off 10s restarting failed container; last time it ended with Error, exit code 3", false},
		"image": {object{"phase": "Pending", "containerStatuses": []object{waiting("ImagePullBackOff", "Back-off pulling image")}},
			"pod image is Pending, container main: ImagePullBackOff: Back-off pulling image", false},
		"full": {object{"phase": "Pending", "conditions": []object{{"type": "PodScheduled", "status": "False",
			"reason": "Unschedulable", "message": "0/1 nodes are available"}}},
			"pod full is Pending: Unschedulable: 0/1 nodes are available", true},
		"evicted": {object{"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
			"pod evicted is Failed: Evicted: low on memory", false},
		"done": {object{"phase": "Succeeded", "containerStatuses": []object{{"name": "main", "image": "main", "imageID": "", "ready": false,
			"restartCount": 0, "state": object{"terminated": object{"exitCode": 0, "reason": "Completed"}}}}},
			"pod done is Succeeded, container main: Completed: exit code 0", false},
		"mount": {object{"phase": "Pending", "containerStatuses": []object{waiting("ContainerCreating", "")}},
			"pod mount is Pending, container main: FailedMount: no such volume", true},
	} {
		t.Run(name, func(t *testing.T) {
			n.newPod(name)
			n.setStatus(name, test.status)
			if name == "mount" {
				n.create("events", object{"metadata": object{"name": "e"}, "type": "Warning", "reason": "FailedMount",
					"message": "no such volume", "involvedObject": object{"kind": "Pod", "name": name, "namespace": n.name}})
			}
			j := n.route(t, "admin", "pod/"+name)
			j.PodRunningTimeout = time.Hour // which is not waited for
			if test.slow {
				j.PodRunningTimeout = 1200 * time.Millisecond
			}
			began := time.Now()
			err := j.Open(t.Context())
			var why *kube.NotReadyError
			if !errors.As(err, &why) || len(why.Pods) != 1 || why.Pods[0].String() != test.want {
				t.Errorf("Open = %v, want %s", err, test.want)
			}
			if took := time.Since(began); test.slow && took < j.PodRunningTimeout {
				t.Errorf("it took %v, want %v", took, j.PodRunningTimeout)
			}
		})
	}
}

func TestStartingPodIsWaitedFor(t *testing.T) {
	n := newNamespace(t)
	n.newPod("kuard")
	j := n.route(t, "admin", "kuard")
	opened := make(chan error, 1)
	go func() { opened <- j.Open(t.Context()) }()
	j.awaitStory("waiting")
	n.setReady("kuard", true)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	j.awaitStory("waiting, ready kuard")
}

// A pod that is named is reached when it is not ready too: that is what one looks into.
func TestNamedPodNeedNotBeReady(t *testing.T) {
	n := newNamespace(t)
	n.newPod("kuard")
	n.setReady("kuard", false)
	n.opened(t, "admin", "kuard").want(80, "kuard:80")
}

func TestScaledToZero(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 0)
	err := n.route(t, "admin", "deploy/web").Open(t.Context())
	if !errors.Is(err, kube.ErrNotReady) || err.Error() != "deploy/web is scaled to 0 replicas" {
		t.Errorf("Open = %v", err)
	}
}

func TestNotFound(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "kuard", 1)
	n.newPod("kuard-abc")
	n.newPod("kuart")
	n.newPod("other")
	n.newService(nil)
	for to, like := range map[string][]string{
		"pod/kuard":   {"pod/kuard-abc", "pod/kuart", "deploy/kuard"},
		"svc/wob":     nil,
		"svc/webb":    {"svc/web"},
		"svc/wbe":     {"svc/web"},
		"deploy/nope": nil,
		"deploy/web":  {"svc/web"},
	} {
		err := n.route(t, "admin", to).Open(t.Context())
		var missing *kube.NotFoundError
		if !errors.As(err, &missing) || missing.Target != to || missing.Namespace != n.name || !reflect.DeepEqual(missing.Similar, like) {
			t.Errorf("%s: %v, want one like %v", to, err, like)
		}
	}
}

// A namespace that does not exist is told as such, whatever was looked for in it.
func TestNoNamespace(t *testing.T) {
	n := newNamespace(t)
	for _, to := range []string{"pod/kuard", "svc/web", "deploy/web"} {
		j := n.route(t, "admin", to)
		j.Namespace = n.name + "x"
		err := j.Open(t.Context())
		var missing *kube.NotFoundError
		if !errors.As(err, &missing) || !missing.NoNamespace || !slices.Contains(missing.Similar, n.name) || !errors.Is(err, kube.ErrNoNamespace) {
			t.Errorf("%s: %v, want no namespace, and one like %s", to, err, n.name)
		}
	}
	// One who may not see namespaces is told of the target.
	n.grant("poduser", "get,list pods")
	err := n.route(t, "poduser", "pod/kuard").Open(t.Context())
	var missing *kube.NotFoundError
	if !errors.As(err, &missing) || missing.NoNamespace {
		t.Errorf("%v, want no pod", err)
	}
}

func TestNotATarget(t *testing.T) {
	n := newNamespace(t)
	n.create("configmaps", object{"metadata": object{"name": "web"}})
	n.create("services", object{"metadata": object{"name": "bare"}, "spec": object{"ports": []object{{"port": 80}}}})
	n.create("services", object{"metadata": object{"name": "far"}, "spec": object{"type": "ExternalName", "externalName": "example.com"}})
	for to, want := range map[string]error{
		"cm/web":             kube.ErrNoPods,
		"configmaps/web":     kube.ErrNoPods,
		"nodes/node":         kube.ErrNoPods,
		"nope/web":           kube.ErrUnknownResource,
		"pods.example/web":   kube.ErrUnknownResource,
		"deploy.example/web": kube.ErrUnknownResource,
		"svc/bare":           kube.ErrNoSelector,
		"svc/far":            kube.ErrNoSelector,
	} {
		if err := n.route(t, "admin", to).Open(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", to, err, want)
		}
	}
}

// An API server that has a resource of its own, with a scale.
func TestScale(t *testing.T) {
	n := newNamespace(t)
	n.must(t, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", object{
		"metadata": object{"name": "widgets.example.com"},
		"spec": object{
			"group": "example.com", "scope": "Namespaced",
			"names": object{"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": []string{"wdg"}},
			"versions": []object{{"name": "v1", "served": true, "storage": true,
				"schema": object{"openAPIV3Schema": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
				"subresources": object{"status": object{}, "scale": object{"specReplicasPath": ".spec.replicas",
					"statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}}}},
		}})
	for end := time.Now().Add(testenv.Patience); ; time.Sleep(100 * time.Millisecond) {
		_, err := n.call(http.MethodPost, n.path("widgets"), object{"apiVersion": "example.com/v1", "kind": "Widget",
			"metadata": object{"name": "web"}, "spec": object{"replicas": 1}})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	n.must(t, http.MethodPatch, n.path("widgets/web/status"), object{"status": object{"replicas": 1, "selector": "app=web"}})
	n.newReady("web-1")
	for _, to := range []string{"widget/web", "widgets/web", "wdg/web", "widgets.example.com/web", "widgets.v1.example.com/web"} {
		n.opened(t, "admin", to).want(80, "web-1:80")
	}
}

func TestOpenConfig(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nonexistent/config")
	t.Setenv("HOME", "/nonexistent")
	if _, err := kube.Open(&kube.Config{}); !errors.Is(err, kube.ErrNoConfig) {
		t.Errorf("without a kubeconfig: %v", err)
	}
	if _, err := kube.Open(&kube.Config{Kubeconfig: "/nonexistent/other"}); !errors.Is(err, kube.ErrNoConfig) {
		t.Errorf("with one that is not there: %v", err)
	}
	path := writeFile(t, "config", "apiVersion: v1\nkind: Config\ncontexts:\n- name: b\n  context: {cluster: c, namespace: x}\n"+
		"- name: a\n  context: {cluster: c}\nclusters:\n- name: c\n  cluster: {server: http://127.0.0.1:1}\n")
	var wrong *kube.ContextError
	if _, err := kube.Open(&kube.Config{Kubeconfig: path}); !errors.As(err, &wrong) || fmt.Sprint(wrong.Available) != "[a b]" {
		t.Errorf("without a current context: %v", err)
	}
	config := &kube.Config{Kubeconfig: path}
	if _, err := kube.Open(config.In("c", "")); !errors.As(err, &wrong) || wrong.Context != "c" {
		t.Errorf("with a context that is not there: %v", err)
	}
	for _, test := range []struct{ context, namespace, want string }{{"a", "", "default"}, {"b", "", "x"}, {"b", "y", "y"}} {
		c, err := kube.Open(config.In(test.context, test.namespace))
		if err != nil {
			t.Fatal(err)
		}
		if c.Namespace != test.want {
			t.Errorf("context %s, namespace %q: %s, want %s", test.context, test.namespace, c.Namespace, test.want)
		}
		c.Close()
	}
	broken := writeFile(t, "config", "{")
	if _, err := kube.Open(&kube.Config{Kubeconfig: broken}); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("with one that cannot be read: %v", err)
	}
}

func TestServerErrors(t *testing.T) {
	n := newNamespace(t)
	nobody := fmt.Sprintf("https://127.0.0.1:%d", testenv.FreePort(t))
	good := n.kubeconfig(t, "admin", n.name)
	for name, test := range map[string]struct {
		config func(*kube.Config)
		want   error
	}{
		"unreachable":  {func(c *kube.Config) { c.Overrides.ClusterInfo.Server = nobody }, kube.ErrUnreachable},
		"unauthorized": {func(c *kube.Config) { c.Overrides.AuthInfo.Token = "expired" }, kube.ErrUnauthorized},
		"certificate":  {func(c *kube.Config) { c.Overrides.ClusterInfo.TLSServerName = "other" }, kube.ErrCertificate},
		"plugin": {func(c *kube.Config) {
			c.Kubeconfig = writeFile(t, "config", fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: a,
contexts: [{name: a, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}],
users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin, interactiveMode: Never}}}]}`, n.url))
		}, kube.ErrCredentials},
		"impersonate": {func(c *kube.Config) {
			c.Overrides.AuthInfo.Token = "token-nobody"
			c.Overrides.AuthInfo.Impersonate = "admin"
		}, kube.ErrForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			config := &kube.Config{Kubeconfig: good}
			test.config(config)
			c, err := kube.Open(config)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, to := range []target.Target{
				{Scheme: target.Kubernetes, Resource: "pod", Name: "kuard"},
				{Scheme: target.Kubernetes, Resource: "svc", Name: "web"},
				{Scheme: target.Kubernetes, Resource: "deploy", Name: "web"},
				{Scheme: target.Kubernetes, Resource: "widget", Name: "web"},
			} {
				r := &kube.Route{Cluster: c, Target: to}
				if err := r.Open(t.Context()); !errors.Is(err, test.want) {
					t.Errorf("%s: %v, want %v", to, err, test.want)
				} else {
					t.Log(err)
				}
			}
		})
	}
}
