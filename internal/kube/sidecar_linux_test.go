package kube_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

// sidecarSpec has an init container that ends, a sidecar with a port, and a container.
func sidecarSpec() object {
	return object{"nodeName": nodeName,
		"initContainers": []object{
			{"name": "migrate", "image": "migrate", "ports": []object{namedPort("never", 7000)}},
			{"name": "proxy", "image": "proxy", "restartPolicy": "Always", "ports": []object{namedPort("proxy", 15001)}},
		},
		"containers": []object{{"name": "main", "image": "main", "ports": []object{namedPort("http", 8080)}}},
	}
}

func (n *namespace) newSidecarPod(name string) {
	n.t.Helper()
	n.create("pods", object{"metadata": object{"name": name, "labels": object{"app": "web"}}, "spec": sidecarSpec()})
}

// state is a container's.
func state(name string, now object, more ...object) object {
	_, runs := now["running"]
	s := object{"name": name, "image": name, "imageID": "", "restartCount": 0, "ready": runs, "started": runs, "state": now}
	for _, m := range more {
		for key, value := range m {
			s[key] = value
		}
	}
	return s
}

func running() object { return object{"running": object{}} }
func done(code int) object {
	return object{"terminated": object{"exitCode": code, "reason": map[bool]string{true: "Completed", false: "Error"}[code == 0]}}
}
func waits(reason string) object { return object{"waiting": object{"reason": reason}} }

// A sidecar's port has its name, for every kind of target.
func TestSidecarPorts(t *testing.T) {
	n := newNamespace(t)
	n.grant("svcpods", "get services", "get,list,watch pods", "create pods/portforward")
	n.newService(object{"ports": []object{{"name": "mesh", "port": 80, "targetPort": "proxy"}}})
	n.newWorkload("deployments", "web", 1)
	n.newSidecarPod("web-1")
	n.setReady("web-1", true)
	for to, user := range map[string]string{"pod/web-1": "admin", "deploy/web": "admin", "svc/web": "svcpods"} {
		given := ":proxy"
		if to == "svc/web" {
			given = ":mesh"
		}
		j, got := n.forwarded(t, user, to, false, given)
		j.want(got[0].Remote, "web-1:15001")
		j.wantPodPort(got[0].Remote, 15001)
	}
	j := n.opened(t, "admin", "pod/web-1")
	if got, err := j.Ports([]target.Port{{Name: "never"}}); !errors.Is(err, kube.ErrNoPort) || !strings.Contains(err.Error(), "http (8080), proxy (15001)") {
		t.Errorf("a port of a container that has ended: %v, %v", got, err)
	}
	c := n.open(t, "admin", n.name)
	if got := fmt.Sprint(c.CompletePorts(t.Context(), "", target.Target{Scheme: target.Kubernetes, Resource: "pod", Name: "web-1"}, "")); got != "[8080\thttp 15001\tproxy]" {
		t.Errorf("ports of the pod: %q", got)
	}
}

// A named pod is reached as long as a sidecar of it runs, and what runs not yet is waited for.
func TestSidecarAloneRuns(t *testing.T) {
	n := newNamespace(t)
	n.newSidecarPod("early")
	n.setStatus("early", object{"phase": "Pending",
		"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", running())},
		"containerStatuses":     []object{state("main", waits("PodInitializing"))}})
	j, _ := n.forwarded(t, "admin", "pod/early", false, ":proxy")
	j.want(15001, "early:15001")
	came := make(chan string, 1)
	go func() {
		at, err := j.reach(8080)
		came <- fmt.Sprint(at, err)
	}()
	late := n.route(t, "admin", "pod/early")
	late.Want, late.PodRunningTimeout = []target.Port{{Remote: 8080}}, 300*time.Millisecond
	var why *kube.NotReadyError
	if err := late.Open(t.Context()); !errors.As(err, &why) || len(why.Pods) != 1 || why.Pods[0].Status != "Pending" {
		t.Errorf("Open for the port of a container that waits: %v", err)
	}
	n.setStatus("early", object{"phase": "Running", "containerStatuses": []object{state("main", running())}})
	if at := <-came; at != "early:8080<nil>" {
		t.Errorf("the connection that waited came to %s", at)
	}

	n.newSidecarPod("crashing")
	n.setStatus("crashing", object{"phase": "Running",
		"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", running())},
		"containerStatuses":     []object{state("main", waits("CrashLoopBackOff"))}})
	n.opened(t, "admin", "pod/crashing").want(15001, "crashing:15001")
}

// What keeps a pod with init containers from being ready, and not what did before.
func TestReasons(t *testing.T) {
	n := newNamespace(t)
	ago := func(d time.Duration) string { return time.Now().Add(-d).UTC().Format(time.RFC3339) }
	began := func(d time.Duration) object { return object{"running": object{"startedAt": ago(d)}} }
	main := state("main", waits("PodInitializing"))
	scheduled := object{"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(time.Minute)}
	unready := object{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [main]"}
	type warning struct {
		reason, container string
		age               time.Duration
		uid               string
	}
	for i, test := range []struct {
		status object
		events []warning
		want   string
	}{
		{object{"phase": "Pending", "conditions": []object{scheduled}, "containerStatuses": []object{main},
			"initContainerStatuses": []object{state("migrate", began(20*time.Second)), state("proxy", waits("PodInitializing"))}},
			[]warning{{"FailedMount", "", 50 * time.Second, ""}, {"FailedScheduling", "", 70 * time.Second, ""}},
			"Pending, container migrate: PodInitializing: init container 1 of 1 is running"},
		{object{"phase": "Pending", "conditions": []object{scheduled}, "containerStatuses": []object{main},
			"initContainerStatuses": []object{state("migrate", waits("PodInitializing")), state("proxy", waits("PodInitializing"))}},
			[]warning{{"FailedScheduling", "", 70 * time.Second, ""}, {"FailedMount", "", 50 * time.Second, ""}, {"Other", "", 0, "another"}},
			"Pending: FailedMount: about it"},
		{object{"phase": "Pending", "conditions": []object{scheduled}, "containerStatuses": []object{main},
			"initContainerStatuses": []object{state("migrate", waits("CrashLoopBackOff"), object{"lastState": done(3)})}},
			[]warning{{"FailedMount", "", 50 * time.Second, ""}},
			"Pending, container migrate: CrashLoopBackOff: last time it ended with Error, exit code 3"},
		{object{"phase": "Pending", "conditions": []object{scheduled}, "containerStatuses": []object{main},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", began(30*time.Second), object{"started": false, "ready": false})}},
			[]warning{{"FailedMount", "", 50 * time.Second, ""}, {"Unhealthy", "spec.initContainers{proxy}", 5 * time.Second, ""}, {"BackOff", "spec.initContainers{migrate}", 4 * time.Second, ""}},
			"Pending, container proxy: Unhealthy: about it"},
		{object{"phase": "Pending", "conditions": []object{scheduled}, "containerStatuses": []object{main},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", began(30*time.Second), object{"started": false, "ready": false})}},
			[]warning{{"FailedMount", "", 50 * time.Second, ""}},
			"Pending, container proxy: PodInitializing: sidecar has not started yet"},
		{object{"phase": "Running", "conditions": []object{scheduled, unready}, "containerStatuses": []object{state("main", began(20*time.Second), object{"ready": false})},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", began(30*time.Second))}},
			[]warning{{"Unhealthy", "spec.containers{main}", 10 * time.Second, ""}, {"Unhealthy2", "spec.initContainers{proxy}", 2 * time.Second, ""}, {"FailedMount", "", 50 * time.Second, ""}},
			"NotReady: Unhealthy: about it"},
		{object{"phase": "Running", "conditions": []object{scheduled, unready}, "containerStatuses": []object{state("main", began(20*time.Second), object{"ready": false})},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", began(30*time.Second))}},
			[]warning{{"FailedMount", "", 50 * time.Second, ""}},
			"NotReady: ContainersNotReady: containers with unready status: [main]"},
		{object{"phase": "Running", "conditions": []object{scheduled, unready}, "containerStatuses": []object{state("main", began(20*time.Second))},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", waits("CrashLoopBackOff"), object{"lastState": done(1)})}},
			nil,
			"NotReady, container proxy: CrashLoopBackOff: last time it ended with Error, exit code 1"},
		{object{"phase": "Failed", "containerStatuses": []object{main}, "initContainerStatuses": []object{state("migrate", done(4))}},
			nil, "Failed, container migrate: Error: exit code 4"},
		{object{"phase": "Failed", "containerStatuses": []object{state("main", done(5))},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", done(143))}},
			nil, "Failed, container main: Error: exit code 5"},
		{object{"phase": "Succeeded", "containerStatuses": []object{state("main", done(0))},
			"initContainerStatuses": []object{state("migrate", done(0)), state("proxy", done(143))}},
			nil, "Succeeded, container main: Completed: exit code 0"},
	} {
		name := "web-" + strconv.Itoa(i)
		t.Run(name+" "+test.want, func(t *testing.T) {
			n.newSidecarPod(name)
			n.setStatus(name, test.status)
			for k, w := range test.events {
				uid := w.uid
				if uid == "" {
					uid = n.uid(name)
				}
				n.create("events", object{"metadata": object{"name": fmt.Sprint(name, "-", k)}, "type": "Warning", "reason": w.reason, "message": "about it",
					"lastTimestamp":  ago(w.age),
					"involvedObject": object{"kind": "Pod", "name": name, "namespace": n.name, "uid": uid, "fieldPath": w.container}})
			}
			n.must(t, "PATCH", n.path("pods/"+name), object{"metadata": object{"labels": object{"app": name}}})
			n.create("replicationcontrollers", object{"metadata": object{"name": name}, "spec": object{"selector": object{"app": name},
				"template": object{"metadata": object{"labels": object{"app": name}}, "spec": object{"containers": []object{{"name": "main", "image": "main"}}}}}})
			j := n.route(t, "admin", "rc/"+name)
			j.PodRunningTimeout = 200 * time.Millisecond
			err := j.Open(t.Context())
			var why *kube.NotReadyError
			if !errors.As(err, &why) || len(why.Pods) != 1 || why.Pods[0].String() != "pod "+name+" is "+test.want {
				t.Errorf("Open = %v, want %s", err, test.want)
			}
		})
	}
}
