package kube_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestServiceSpreads(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newService(nil)
	for _, pod := range []string{"web-1", "web-2", "web-3", "web-4"} {
		n.newReady(pod)
	}
	n.setSlice(8080, member{pod: "web-1", ready: true}, member{pod: "web-2", ready: true},
		member{pod: "web-3"}, member{pod: "web-4", terminating: true})
	j := n.opened(t, "admin", "svc/web")
	if got := fmt.Sprint(j.pods(80, 6)); got != "[web-1:8080 web-2:8080]" {
		t.Errorf("connections come to %s", got)
	}

	// Pods come and go, and the port changes with them.
	n.setSlice(9090, member{pod: "web-2", ready: true}, member{pod: "web-3", ready: true})
	j.eventually("[web-2:9090 web-3:9090]")
	n.setSlice(9090, member{pod: "web-3", ready: true})
	j.eventually("[web-3:9090]")
	if story := j.story(); strings.Count(story, ",") > 0 {
		t.Errorf("told %q, want nothing but ready", story)
	}
}

// eventually waits until connections to the service come to these.
func (j *journey) eventually(want string) {
	j.t.Helper()
	got := ""
	for end := time.Now().Add(testenv.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = fmt.Sprint(j.pods(80, 6)); got == want {
			return
		}
	}
	j.t.Fatalf("connections come to %s, want %s", got, want)
}

func TestServiceAffinityAndPin(t *testing.T) {
	for name, test := range map[string]struct {
		spec object
		pin  bool
	}{
		"affinity": {spec: object{"sessionAffinity": "ClientIP"}},
		"pin":      {pin: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			n.newService(test.spec)
			n.newReady("web-1")
			n.newReady("web-2")
			n.setSlice(8080, member{pod: "web-1", ready: true}, member{pod: "web-2", ready: true})
			j := n.route(t, "admin", "svc/web")
			j.Pin = test.pin
			j.open()
			first := j.pods(80, 8)
			if len(first) != 1 {
				t.Fatalf("connections come to %v, want one pod", first)
			}
			other := map[string]string{"web-1:8080": "web-2:8080", "web-2:8080": "web-1:8080"}[first[0]]
			pod, _, _ := strings.Cut(first[0], ":")
			rest, _, _ := strings.Cut(other, ":")

			// Not ready: affinity goes elsewhere, a pinned route waits.
			n.setSlice(8080, member{pod: pod}, member{pod: rest, ready: true})
			if test.pin {
				j.awaitStory("ready " + pod + ", reconnecting")
				n.setSlice(8080, member{pod: pod, terminating: true}, member{pod: rest, ready: true})
			}
			j.eventually("[" + other + "]")
		})
	}
}

func TestAffinityExpires(t *testing.T) {
	n := newNamespace(t)
	n.newService(object{"sessionAffinity": "ClientIP", "sessionAffinityConfig": object{"clientIP": object{"timeoutSeconds": 5}}})
	members := []member{}
	for i := range 8 {
		pod := fmt.Sprintf("web-%d", i)
		n.newReady(pod)
		members = append(members, member{pod: pod, ready: true})
	}
	n.setSlice(8080, members...)
	j := n.opened(t, "admin", "svc/web")
	first := j.pods(80, 5)
	if len(first) != 1 {
		t.Fatalf("connections come to %v, want one pod", first)
	}
	time.Sleep(5100 * time.Millisecond)
	if again := j.pods(80, 5); len(again) != 1 {
		t.Errorf("connections come to %v, want one pod", again)
	}
}

func TestServiceWithoutSlices(t *testing.T) {
	n := newNamespace(t)
	n.grant("svcpods", "get services", "get,list,watch pods", "create pods/portforward")
	n.newService(object{"ports": []object{{"port": 80, "targetPort": "http"}}})
	n.newReady("web-1")
	n.newPod("web-2")
	j := n.opened(t, "svcpods", "svc/web")
	j.eventually("[web-1:8080]")
	n.setReady("web-2", true)
	j.eventually("[web-1:8080 web-2:8080]")
}

func TestServiceWithoutReadyPod(t *testing.T) {
	n := newNamespace(t)
	n.newService(nil)
	n.setSlice(8080)
	j := n.route(t, "admin", "svc/web")
	j.PodRunningTimeout = 4 * time.Second // more than it waits in silence
	err := j.Open(t.Context())
	var why *kube.NotReadyError
	if !errors.As(err, &why) || len(why.Pods) != 0 || why.Target != "svc/web" {
		t.Errorf("Open = %v", err)
	}
	j.awaitStory("waiting")

	n.newPod("web-1")
	n.setStatus("web-1", object{"phase": "Pending", "containerStatuses": []object{waiting("ImagePullBackOff", "no such image: web:2")}})
	n.setSlice(8080, member{pod: "web-1"})
	j = n.route(t, "admin", "svc/web")
	j.PodRunningTimeout = time.Hour // it is not waited for
	err = j.Open(t.Context())
	if !errors.As(err, &why) || len(why.Pods) != 1 || why.Pods[0].Reason != "ImagePullBackOff" {
		t.Errorf("Open = %v", err)
	}
}

func waiting(reason, message string) object {
	return object{"name": "main", "image": "main", "imageID": "", "ready": false, "restartCount": 0,
		"state": object{"waiting": object{"reason": reason, "message": message}}}
}

func TestPorts(t *testing.T) {
	n := newNamespace(t)
	n.newService(object{"ports": []object{
		{"name": "http", "port": 80, "targetPort": "http"},
		{"name": "dns", "port": 53, "protocol": "UDP"},
		{"name": "dns-tcp", "port": 54, "targetPort": 53},
		{"name": "sctp", "port": 55, "protocol": "SCTP"},
	}})
	n.newReady("web-1")
	n.setSlice(8080, member{pod: "web-1", ready: true})
	n.newWorkload("deployments", "web", 1)
	for _, test := range []struct {
		target, port string
		want         string // or
		err          error
	}{
		{"svc/web", "80", "80:80", nil},
		{"svc/web", ":http", "0:80", nil},
		{"svc/web", "http", "80:80", nil},
		{"svc/web", "9000:http", "9000:80", nil},
		{"svc/web", "54", "54:54", nil},
		{"svc/web", "53", "", kube.ErrProtocol},
		{"svc/web", "dns", "", kube.ErrProtocol},
		{"svc/web", "sctp", "", kube.ErrProtocol},
		{"svc/web", "81", "", kube.ErrNoPort},
		{"svc/web", "grpc", "", kube.ErrNoPort},
		{"pod/web-1", "http", "8080:8080", nil},
		{"pod/web-1", "1:http", "1:8080", nil},
		{"pod/web-1", "9", "9:9", nil},
		{"pod/web-1", "53", "", kube.ErrProtocol},
		{"pod/web-1", "grpc", "", kube.ErrNoPort},
		{"deploy/web", "http", "8080:8080", nil},
		{"deploy/web", "grpc", "", kube.ErrNoPort},
	} {
		t.Run(test.target+" "+test.port, func(t *testing.T) {
			j := n.opened(t, "admin", test.target)
			p, err := target.ParseNamedPorts(test.port)
			if err != nil {
				t.Fatal(err)
			}
			got, err := j.Ports(p)
			if test.err != nil {
				if !errors.Is(err, test.err) {
					t.Errorf("Ports = %v, %v, want %v", got, err, test.err)
				}
				return
			}
			if err != nil || fmt.Sprintf("%d:%d", got[0].Local, got[0].Remote) != test.want {
				t.Errorf("Ports = %v, %v, want %s", got, err, test.want)
			}
		})
	}
}

// A port by its name goes to where each pod has it.
func TestNamedPortMoves(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	j := n.opened(t, "admin", "deploy/web")
	got, err := j.Ports([]target.Port{{Name: "http", Same: true}, {Remote: 9}})
	if err != nil {
		t.Fatal(err)
	}
	j.want(got[0].Remote, "web-1:8080")
	n.must(t, http.MethodPost, n.path("pods"), object{
		"metadata": object{"name": "web-2", "labels": object{"app": "web"}}, "spec": podSpec(9090)})
	n.setReady("web-2", true)
	n.kill("web-1")
	j.awaitStory("ready web-1, ready web-2")
	j.want(got[0].Remote, "web-2:9090")
	j.want(9, "web-2:9")
	if at, err := j.PodPort(got[0].To()); err != nil || at != 9090 {
		t.Errorf("PodPort = %d, %v", at, err)
	}
}
