package kube_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// forwarded is opened for ports, as `porthole forward` opens it.
func (n *namespace) forwarded(t testing.TB, user, to string, pin bool, ports ...string) (*journey, []target.Port) {
	t.Helper()
	j := n.route(t, user, to)
	j.Pin = pin
	for _, text := range ports {
		p, err := target.ParseNamedPorts(text)
		if err != nil {
			t.Fatal(err)
		}
		j.Want = append(j.Want, p...)
	}
	j.open()
	got, err := j.Ports(j.Want)
	if err != nil {
		t.Fatal(err)
	}
	return j, got
}

// wantAll wants many connections to a port to come to the same place.
func (j *journey) wantAll(port uint16, want string) {
	j.t.Helper()
	for range 30 {
		j.want(port, want)
	}
}

// wantSoon waits until connections to a port come to a place; until then, they come
// to another, and none fails.
func (j *journey) wantSoon(port uint16, want string) {
	j.t.Helper()
	got := ""
	for end := time.Now().Add(time.Minute); got != want; time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = j.reach(port); err != nil || time.Now().After(end) {
			j.t.Fatalf("port %d leads to %q, %v, want %s", port, got, err, want)
		}
	}
}

func (j *journey) wantPodPort(port, want uint16) {
	j.t.Helper()
	if got, err := j.PodPort(target.TCPPort(port)); err != nil || got != want {
		j.t.Errorf("port %d is %d at its pod, %v, want %d", port, got, err, want)
	}
}

func namedPort(name string, port int) object { return object{"name": name, "containerPort": port} }

// twoPorts is a service of which no pod has both ports.
func (n *namespace) twoPorts() {
	n.t.Helper()
	n.newService(object{"ports": []object{
		{"name": "http", "port": 80, "targetPort": "http"},
		{"name": "grpc", "port": 81, "targetPort": "grpc"},
	}})
	for i := range 3 {
		n.newPodOf(fmt.Sprintf("http-%d", i), namedPort("http", 8080))
	}
	n.newPodOf("grpc-0", namedPort("grpc", 9090))
	n.putSlice("web-1", slice(n.ready("http-0", "http-1", "http-2"), tcpPort("http", 8080)))
	n.putSlice("web-2", slice(n.ready("grpc-0"), tcpPort("grpc", 9090)))
}

// Two ports in different pods: every connection comes to a pod that has its port,
// with every way to choose one, and for a user who sees pods alone.
func TestPortsInDifferentPods(t *testing.T) {
	for name, test := range map[string]struct {
		user string
		pin  bool
		spec object
	}{
		"spread":         {"admin", false, nil},
		"pin":            {"admin", true, nil},
		"affinity":       {"admin", false, object{"sessionAffinity": "ClientIP"}},
		"without slices": {"svcpods", false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			testenv.NoLeaks(t)
			n.grant("svcpods", "get services", "get,list,watch pods", "create pods/portforward")
			n.twoPorts()
			if test.spec != nil {
				n.must(t, "PATCH", n.path("services/web"), object{"spec": test.spec})
			}
			j, _ := n.forwarded(t, test.user, "svc/web", test.pin, "81", "http")
			j.wantPodPort(81, 9090)
			j.wantPodPort(80, 8080)
			j.wantAll(81, "grpc-0:9090")
			pods := map[string]int{}
			for range 30 {
				at, err := j.reach(80)
				if err != nil {
					t.Fatal(err)
				}
				pods[at]++
			}
			want := 3
			if test.pin || test.spec != nil {
				want = 1
			}
			if len(pods) != want || pods["grpc-0:8080"] > 0 {
				t.Errorf("connections come to %v, want %d pods", pods, want)
			}
			if want == 3 && min(pods["http-0:8080"], pods["http-1:8080"], pods["http-2:8080"]) < 8 {
				t.Errorf("connections are not spread: %v", pods)
			}
			if story := j.story(); story != "ready grpc-0" && test.pin {
				t.Errorf("told %q, want the first port's pod", story)
			}
		})
	}
}

// Where one pod has both ports, it is the one to stay with.
func TestPinTakesThePodWithAllPorts(t *testing.T) {
	n := newNamespace(t)
	n.twoPorts()
	n.newPodOf("both", namedPort("http", 8080), namedPort("grpc", 9090))
	n.putSlice("web-3", slice(n.ready("both"), tcpPort("http", 8080), tcpPort("grpc", 9090)))
	for range 5 {
		j, _ := n.forwarded(t, "admin", "svc/web", true, "80", "81")
		j.wantAll(80, "both:8080")
		j.wantAll(81, "both:9090")
		_ = j.Close()
	}
}

// A pod that was never reached is not what a pinned route waits for.
func TestPinLeavesAPodThatNeverWorked(t *testing.T) {
	n := newNamespace(t)
	n.newService(nil)
	n.newReady("web-1")
	n.newReady("web-2")
	n.newReady("web-3")
	n.setSlice(8080, member{pod: "web-1", ready: true}, member{pod: "web-2", ready: true}, member{pod: "web-3", ready: true})
	n.tellNode(t, "down", "web-1")
	n.kill("web-2") // and the slice does not know
	for range 5 {
		j, _ := n.forwarded(t, "admin", "svc/web", true, "80")
		j.wantAll(80, "web-3:8080")
		_ = j.Close()
	}
}

// A port that a pod does not have is waited for like a pod that is not ready: it may
// come, and until then the reason is told.
func TestPortComes(t *testing.T) {
	n := newNamespace(t)
	n.twoPorts()
	j, _ := n.forwarded(t, "admin", "svc/web", false, "80", "81")
	n.putSlice("web-2", slice(nil, tcpPort("grpc", 9090)))
	j.awaitNone(81, kube.ErrNoPort)
	came := make(chan string, 1)
	go func() {
		at, err := j.reach(81)
		came <- fmt.Sprint(at, err)
	}()
	n.newPodOf("grpc-1", namedPort("grpc", 9091))
	n.putSlice("web-2", slice(n.ready("grpc-1"), tcpPort("grpc", 9091)))
	if at := <-came; at != "grpc-1:9091<nil>" {
		t.Errorf("the connection that waited came to %s", at)
	}
	if _, err := j.reach(80); err != nil {
		t.Errorf("the other port: %v", err)
	}
}

// awaitNone waits until no pod has a port, and wants connections to say why.
func (j *journey) awaitNone(port uint16, why error) {
	j.t.Helper()
	wait := j.MaxWait
	defer func() { j.MaxWait = wait }()
	j.MaxWait = 200 * time.Millisecond
	var err error
	for end := time.Now().Add(time.Minute); !errors.Is(err, kube.ErrWaited) || !errors.Is(err, why); time.Sleep(10 * time.Millisecond) {
		if _, err = j.reach(port); time.Now().After(end) {
			j.t.Fatalf("port %d: %v, want %v", port, err, why)
		}
	}
}

// What a service says of its ports counts as it is now.
func TestServiceIsEdited(t *testing.T) {
	for name, test := range map[string]struct {
		ports  []object // at first, beside slice web-1 with port PORT
		slice  object
		given  string
		edit   []object
		edited object
		want   string
	}{
		"a port is added, so that the first takes a name": {
			[]object{{"port": 80, "targetPort": 8080}}, tcpPort("", 8080), ":80",
			[]object{{"name": "web", "port": 80, "targetPort": 8080}, {"name": "more", "port": 81, "targetPort": 8081}}, tcpPort("web", 8081), "web-1:8081"},
		"the target port changes": {
			[]object{{"port": 80, "targetPort": 8080}}, tcpPort("", 8080), ":80",
			[]object{{"port": 80, "targetPort": 9090}}, tcpPort("", 9090), "web-1:9090"},
		"the target port of a slice without numbers changes": {
			[]object{{"port": 80, "targetPort": 8080}}, object{}, ":80",
			[]object{{"port": 80, "targetPort": 9090}}, object{}, "web-1:9090"},
		"a name has another number": {
			[]object{{"name": "http", "port": 80, "targetPort": 8080}}, tcpPort("http", 8080), ":http",
			[]object{{"name": "http", "port": 81, "targetPort": 9090}, {"name": "old", "port": 80, "targetPort": 8080}}, tcpPort("http", 9090), "web-1:9090"},
		"a number has another name": {
			[]object{{"name": "http", "port": 80, "targetPort": 8080}}, tcpPort("http", 8080), ":80",
			[]object{{"name": "web", "port": 80, "targetPort": 9090}}, tcpPort("web", 9090), "web-1:9090"},
		"a number is gone, and its name is not": {
			[]object{{"name": "http", "port": 80, "targetPort": 8080}}, tcpPort("http", 8080), ":80",
			[]object{{"name": "http", "port": 8000, "targetPort": 9090}}, tcpPort("http", 9090), "web-1:9090"},
	} {
		for _, user := range []string{"admin", "svcuser"} {
			t.Run(name+" as "+user, func(t *testing.T) {
				n := newNamespace(t)
				n.grant("svcuser", "get services", "list endpointslices.discovery.k8s.io", "create pods/portforward") // may not watch
				n.newService(object{"ports": test.ports})
				n.newReady("web-1")
				n.putSlice("web-1", slice(n.ready("web-1"), test.slice))
				j, got := n.forwarded(t, user, "svc/web", false, test.given)
				j.want(got[0].Remote, "web-1:8080")
				n.setPorts(test.edit...)
				n.putSlice("web-1", slice(n.ready("web-1"), test.edited))
				j.wantSoon(got[0].Remote, test.want)
			})
		}
	}
}

// A number that is gone stands for the name that its port had last, and while service
// and slices do not fit together, nothing is told.
func TestServiceIsEditedAgain(t *testing.T) {
	n := newNamespace(t)
	n.newService(object{"ports": []object{{"port": 80, "targetPort": 8080}}})
	n.newReady("web-1")
	n.putSlice("web-1", slice(n.ready("web-1"), tcpPort("", 8080)))
	j, _ := n.forwarded(t, "admin", "svc/web", false, "80")
	for i, edit := range []struct {
		name string
		port int
	}{{"web", 80}, {"other", 80}, {"other", 8000}, {"other", 80}, {"web", 80}, {"web", 81}} {
		n.setPorts(object{"name": edit.name, "port": edit.port})
		came := make(chan string, 1)
		go func() { // waits, or comes before the service's change
			at, err := j.reach(80)
			came <- fmt.Sprint(at, err)
		}()
		n.setPorts(object{"name": "more", "port": 90}, object{"name": edit.name, "port": edit.port})
		time.Sleep(50 * time.Millisecond)
		n.putSlice("web-1", slice(n.ready("web-1"), tcpPort("more", 7000), tcpPort(edit.name, 9000+i)))
		if at := <-came; !strings.HasPrefix(at, "web-1:") {
			t.Errorf("after edit %d: %s", i, at)
		}
		j.wantSoon(80, fmt.Sprint("web-1:", 9000+i))
	}
	j.awaitStory("ready web-1")
}

// A port that the service has no more is told at once, and comes back with it.
func TestServicePortIsTakenAway(t *testing.T) {
	n := newNamespace(t)
	n.newService(object{"ports": []object{{"name": "http", "port": 80, "targetPort": 8080}, {"name": "more", "port": 81, "targetPort": 8081}}})
	n.newReady("web-1")
	n.putSlice("web-1", slice(n.ready("web-1"), tcpPort("http", 8080), tcpPort("more", 8081)))
	j, _ := n.forwarded(t, "admin", "svc/web", false, "80", "81")
	j.want(81, "web-1:8081")
	n.setPorts(object{"name": "http", "port": 80, "targetPort": 8080})
	var gone *kube.PortError
	for end := time.Now().Add(time.Minute); gone == nil; time.Sleep(10 * time.Millisecond) {
		if _, err := j.reach(81); time.Now().After(end) || err != nil && !errors.As(err, &gone) {
			t.Fatalf("port 81: %v, want none", err)
		}
	}
	if gone.Error() != "svc/web has no port 81, but http (80)" {
		t.Error(gone)
	}
	n.must(t, "DELETE", n.path("services/web"), nil)
	j.want(80, "web-1:8080") // as long as there is a slice
	n.newService(object{"ports": []object{{"name": "all", "port": 81, "targetPort": 9090}, {"name": "http", "port": 80}}})
	n.putSlice("web-1", slice(n.ready("web-1"), tcpPort("all", 9090), tcpPort("http", 8000)))
	j.wantSoon(80, "web-1:8000")
	j.want(81, "web-1:9090")
	j.awaitStory("ready web-1")
}

// A user who may not see slices sees the service's selector change.
func TestServiceSelectsOthers(t *testing.T) {
	n := newNamespace(t)
	n.grant("svcpods", "get,list,watch services", "get,list,watch pods", "create pods/portforward")
	n.newService(object{"ports": []object{{"port": 80, "targetPort": "http"}}})
	n.newReady("web-1")
	n.create("pods", object{"metadata": object{"name": "other-1", "labels": object{"app": "other"}}, "spec": podSpec(9090)})
	n.setReady("other-1", true)
	j, _ := n.forwarded(t, "svcpods", "svc/web", false, "80")
	j.want(80, "web-1:8080")
	n.must(t, "PATCH", n.path("services/web"), object{"spec": object{"selector": object{"app": "other"}}})
	j.wantSoon(80, "other-1:9090")
}

// Affinity is the service's as it is now, too.
func TestAffinityIsEdited(t *testing.T) {
	n := newNamespace(t)
	n.newService(nil)
	n.newReady("web-1")
	n.newReady("web-2")
	n.setSlice(8080, member{pod: "web-1", ready: true}, member{pod: "web-2", ready: true})
	j, _ := n.forwarded(t, "admin", "svc/web", false, "80")
	j.eventually("[web-1:8080 web-2:8080]")
	n.must(t, "PATCH", n.path("services/web"), object{"spec": object{"sessionAffinity": "ClientIP"}})
	for end := time.Now().Add(time.Minute); len(j.pods(80, 6)) > 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("connections are still spread")
		}
	}
	n.must(t, "PATCH", n.path("services/web"), object{"spec": object{"sessionAffinity": "None"}})
	j.eventually("[web-1:8080 web-2:8080]")
}

// Whatever slices may say of a service with the port 80, its connections come to the pod.
func TestSlices(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web-1")
	n.newReady("web-2")
	other := newNamespace(t)
	other.newReady("web-1")
	at := func(conditions object) []object { return []object{n.endpoint("web-1", conditions)} }
	ready := n.ready("web-1")
	nameless := n.endpoint("web-1", object{"ready": true})
	delete(nameless["targetRef"].(object), "uid")
	delete(nameless["targetRef"].(object), "namespace")
	dual := slice([]object{n.endpoint("web-1", nil)}, tcpPort("http", 8080))
	dual["addressType"], dual["endpoints"].([]object)[0]["addresses"] = "IPv6", []string{"fd00::1"}
	for name, test := range map[string]struct {
		port   object // of the service; http if nil
		slices []object
		want   string
	}{
		"ready is not said":       {nil, []object{slice(at(nil), tcpPort("http", 8080))}, "web-1:8080"},
		"both families":           {nil, []object{slice(ready, tcpPort("http", 8080)), dual}, "web-1:8080"},
		"other ports in each":     {nil, []object{slice(ready, tcpPort("more", 1234)), slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
		"ready in one":            {nil, []object{slice(at(object{"ready": false}), tcpPort("http", 1234)), slice(ready, tcpPort("http", 8080)), slice(at(object{"ready": false}), tcpPort("http", 1235))}, "web-1:8080"},
		"other ports in one":      {nil, []object{slice(n.ready("web-2"), tcpPort("more", 1234)), slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
		"no ports in one":         {nil, []object{slice(n.ready("web-2")), slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
		"UDP of the name in one":  {nil, []object{slice(n.ready("web-2"), object{"name": "http", "port": 1234, "protocol": "UDP"}), slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
		"no names":                {object{"port": 80, "targetPort": 8080}, []object{slice(ready, object{"port": 8080})}, "web-1:8080"},
		"no name in the slice":    {nil, []object{slice(ready, object{"port": 8080})}, "web-1:8080"},
		"no name in the service":  {object{"port": 80}, []object{slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
		"no number":               {object{"port": 80, "name": "http", "targetPort": 8080}, []object{slice(ready, object{"name": "http"})}, "web-1:8080"},
		"neither name nor number": {object{"port": 80, "name": "http", "targetPort": 8080}, []object{slice(ready, object{})}, "web-1:8080"},
		"no number anywhere":      {object{"port": 80}, []object{slice(ready, object{})}, "web-1:80"},
		"ready while it ends":     {nil, []object{slice(at(object{"ready": true, "serving": true, "terminating": true}), tcpPort("http", 8080))}, "web-1:8080"},
		"another is ready and ends": {nil, []object{slice(ready, tcpPort("http", 8080)),
			slice([]object{n.endpoint("web-2", object{"ready": true, "terminating": true})}, tcpPort("http", 1234))}, "web-1:8080"},
		"only the pod's name":     {nil, []object{slice([]object{nameless}, tcpPort("http", 8080))}, "web-1:8080"},
		"the name in one":         {nil, []object{slice(ready, tcpPort("http", 8080)), slice([]object{nameless}, tcpPort("more", 1234))}, "web-1:8080"},
		"a pod elsewhere":         {nil, []object{slice(other.ready("web-1"), tcpPort("http", 1234)), slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
		"addresses without a pod": {nil, []object{slice([]object{{"addresses": []string{"10.1.0.9"}}}, tcpPort("http", 1234)), slice(ready, tcpPort("http", 8080))}, "web-1:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			port := test.port
			if port == nil {
				port = object{"name": "http", "port": 80, "targetPort": "http"}
			}
			n.newService(object{"ports": []object{port}})
			for i, s := range test.slices {
				n.putSlice(fmt.Sprint("web-", i), s)
			}
			defer func() {
				n.must(t, "DELETE", n.path("services/web"), nil)
				n.must(t, "DELETE", n.path("endpointslices"), nil)
			}()
			j, _ := n.forwarded(t, "admin", "svc/web", false, "80")
			defer j.Close()
			j.wantAll(80, test.want)
		})
	}
}

// A service without a selector leads to the pods that its slices name.
func TestServiceWithoutSelector(t *testing.T) {
	n := newNamespace(t)
	n.create("services", object{"metadata": object{"name": "web"}, "spec": object{"ports": []object{{"name": "http", "port": 80}, {"name": "grpc", "port": 81}}}})
	n.putSlice("web-1", slice([]object{{"addresses": []string{"192.0.2.1"}}}, tcpPort("http", 80)))
	if err := n.route(t, "admin", "svc/web").Open(t.Context()); !errors.Is(err, kube.ErrNoSelector) {
		t.Errorf("without pods: %v", err)
	}
	n.newReady("web-1")
	n.newReady("web-2")
	n.putSlice("mirrored-1", slice(n.ready("web-1"), tcpPort("http", 8080)))
	n.putSlice("mirrored-2", slice(n.ready("web-2"), tcpPort("grpc", 9090)))
	j, _ := n.forwarded(t, "admin", "svc/web", false, "80", "grpc")
	j.wantAll(80, "web-1:8080")
	j.wantAll(81, "web-2:9090")

	// Its pod is not ready any more, of which the reason is looked for by its name.
	n.setStatus("web-1", object{"phase": "Running", "conditions": []object{}, "containerStatuses": []object{waiting("CrashLoopBackOff", "back-off")}})
	n.putSlice("mirrored-1", slice([]object{n.endpoint("web-1", object{"ready": false})}, tcpPort("http", 8080)))
	j.awaitNone(80, kube.ErrNotReady)
	j.MaxWait = time.Millisecond
	_, err := j.reach(80)
	var why *kube.NotReadyError
	if !errors.As(err, &why) || len(why.Pods) != 1 || why.Pods[0].Reason != "CrashLoopBackOff" {
		t.Errorf("Dial = %v, want the reason", err)
	}
}

// A headless service's clients reach pods themselves: by its numbers and names, and by the pods'.
func TestHeadlessService(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web-1")
	n.newReady("web-2")
	for name, test := range map[string]struct {
		ports  []object
		slices []object
		want   map[string]string // by what is given
		wrong  []string
	}{
		"target ports": {
			[]object{{"name": "http", "port": 80, "targetPort": 8080}, {"name": "same", "port": 9090, "targetPort": 9090}},
			[]object{slice(n.ready("web-1"), tcpPort("http", 8080), tcpPort("same", 9090))},
			map[string]string{":80": "web-1:8080", ":http": "web-1:8080", ":8080": "web-1:8080", ":same": "web-1:9090", ":9090": "web-1:9090"},
			[]string{":81", ":grpc"}},
		"named target ports": {
			[]object{{"name": "http", "port": 80, "targetPort": "http"}, {"name": "grpc", "port": 81, "targetPort": "grpc"}},
			[]object{slice(n.ready("web-1"), tcpPort("http", 8080)), slice(n.ready("web-2"), tcpPort("grpc", 9090))},
			map[string]string{":80": "web-1:8080", ":grpc": "web-2:9090", ":9090": "web-2:9090"}, nil},
		"no ports": {
			nil, []object{slice(n.ready("web-1"))},
			map[string]string{":80": "web-1:80", ":8080": "web-1:8080"}, []string{":http"}},
	} {
		t.Run(name, func(t *testing.T) {
			n.newService(object{"clusterIP": "None", "ports": test.ports})
			for i, s := range test.slices {
				n.putSlice(fmt.Sprint("web-", i), s)
			}
			defer func() {
				n.must(t, "DELETE", n.path("services/web"), nil)
				n.must(t, "DELETE", n.path("endpointslices"), nil)
			}()
			for given, want := range test.want {
				j, got := n.forwarded(t, "admin", "svc/web", false, given)
				j.wantAll(got[0].Remote, want)
				_ = j.Close()
			}
			for _, given := range test.wrong {
				p, err := target.ParseNamedPorts(given)
				if err != nil {
					t.Fatal(err)
				}
				j := n.opened(t, "admin", "svc/web")
				if got, err := j.Ports(p); !errors.Is(err, kube.ErrNoPort) {
					t.Errorf("%s is %v, %v, want no such port", given, got, err)
				}
				_ = j.Close()
			}
		})
	}
}

// A service whose port no pod has: it is said at the start, as kubectl does.
func TestNoPodHasThePort(t *testing.T) {
	n := newNamespace(t)
	n.newService(object{"ports": []object{{"name": "http", "port": 80, "targetPort": "typo"}}})
	n.newReady("web-1")
	n.putSlice("web-1", slice(n.ready("web-1")))
	j := n.route(t, "admin", "svc/web")
	j.Want, j.PodRunningTimeout = []target.Port{{Remote: 80}}, time.Hour
	var missing *kube.PortError
	if err := j.Open(t.Context()); !errors.As(err, &missing) || missing.Error() != "no pod of svc/web has port 80, nor names any" {
		t.Errorf("Open = %v", err)
	}
}

// A workload's ports in different pods, by their names.
func TestWorkloadPortsInDifferentPods(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 2)
	n.newPodOf("http-0", namedPort("http", 8080))
	n.newPodOf("grpc-0", namedPort("grpc", 9090))
	j, got := n.forwarded(t, "admin", "deploy/web", false, ":http", ":grpc")
	j.wantPodPort(got[0].Remote, 8080)
	j.wantPodPort(got[1].Remote, 9090)
	j.wantAll(got[0].Remote, "http-0:8080")
	j.wantAll(got[1].Remote, "grpc-0:9090")

	// The port is renamed for a while: connections wait.
	n.kill("grpc-0")
	j.awaitNone(got[1].Remote, kube.ErrNoPort)
	time.AfterFunc(200*time.Millisecond, func() { n.newPodOf("grpc-1", namedPort("grpc", 9091)) })
	j.want(got[1].Remote, "grpc-1:9091")
}
