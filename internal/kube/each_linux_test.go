package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// expansion is a target's members, as they are told.
type expansion struct {
	t       testing.TB
	forward target.Forward
	opened  map[string]*route.Result
	end     func() error

	mu      sync.Mutex
	members []route.Member
}

// expand follows the members of a target until the test ends.
func (n *namespace) expand(t testing.TB, user, to string, ports ...target.Port) *expansion {
	t.Helper()
	return expand(t, n.kubeconfig(t, user, n.name), to, ports...)
}

func expand(t testing.TB, kubeconfig, to string, ports ...target.Port) *expansion {
	t.Helper()
	parsed, err := target.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	o := &kube.Opener{Config: &kube.Config{Kubeconfig: kubeconfig}, MaxWait: testenv.Patience, PodRunningTimeout: testenv.Patience}
	x := &expansion{t: t, forward: target.Forward{Target: parsed, Each: target.EachPorts, Ports: ports}, opened: map[string]*route.Result{}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- o.Expand(ctx, x.forward, func(route.Event) {}, func(all []route.Member) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.members = all
		})
	}()
	x.end = sync.OnceValue(func() error { stop(); return <-ended })
	t.Cleanup(func() {
		for _, r := range x.opened {
			_ = r.Close()
		}
		if err := x.end(); !errors.Is(err, context.Canceled) {
			t.Errorf("expand %s: %v", to, err)
		}
		o.Close()
	})
	return x
}

func (x *expansion) story() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []string
	for _, m := range x.members {
		all = append(all, fmt.Sprintf("%s=%d", m.Name, m.Place))
	}
	return strings.Join(all, " ")
}

func (x *expansion) await(want string) {
	x.t.Helper()
	for end := time.Now().Add(testenv.Patience); x.story() != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("members %q, want %q", x.story(), want)
		}
	}
}

// reach connects to a member's port, by a Route that stays open, and returns where it comes to.
func (x *expansion) reach(member string) (string, error) {
	x.mu.Lock()
	members := x.members
	x.mu.Unlock()
	for _, m := range members {
		if m.Name != member || x.opened[member] != nil {
			continue
		}
		r, err := m.Open(x.t.Context(), x.forward.For(m.Name, m.Place), func(route.Event) {})
		if err != nil {
			return "", err
		}
		x.opened[member] = r
	}
	r := x.opened[member]
	conn, err := r.Dial(x.t.Context(), r.Ports[0].To())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return greeting(conn)
}

func (x *expansion) want(member string, want string) {
	x.t.Helper()
	if got, err := x.reach(member); err != nil || got != want {
		x.t.Fatalf("%s leads to %q, %v, want %s", member, got, err, want)
	}
}

// Each pod of a StatefulSet has the place of its ordinal, and keeps it while the pod is made
// anew. Only what the StatefulSet is not to have any more leaves.
func TestExpandStatefulSet(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("statefulsets", "web", 3)
	for _, pod := range []string{"web-0", "web-1", "web-2"} {
		n.newReady(pod)
	}
	n.setReady("web-2", false) // it is reached nevertheless
	x := n.expand(t, "admin", "sts/web", target.Port{Remote: 8080})
	x.await("web-0=0 web-1=1 web-2=2")
	for _, pod := range []string{"web-0", "web-1", "web-2"} {
		x.want(pod, pod+":8080")
	}
	n.kill("web-1")
	came := make(chan error)
	go func() { // it waits
		_, err := x.reach("web-1")
		came <- err
	}()
	n.newReady("web-1")
	if err := <-came; err != nil {
		t.Fatal(err)
	}
	x.await("web-0=0 web-1=1 web-2=2")

	scale := func(replicas int) {
		t.Helper()
		n.must(t, http.MethodPatch, n.path("statefulsets/web"), object{"spec": object{"replicas": replicas}})
	}
	scale(4)
	n.newReady("web-3")
	x.await("web-0=0 web-1=1 web-2=2 web-3=3")
	x.want("web-3", "web-3:8080")
	n.kill("web-3") // made again, it seems
	scale(2)        // and now it is not
	x.await("web-0=0 web-1=1 web-2=2")
	n.terminate("web-2")
	x.await("web-0=0 web-1=1")
	n.must(t, http.MethodDelete, n.path("statefulsets/web"), nil)
	n.kill("web-0")
	n.kill("web-1")
	x.await("")
	n.newWorkload("statefulsets", "web", 1)
	n.newReady("web-0")
	x.await("web-0=0")
	x.want("web-0", "web-0:8080")
}

// A headless service's pods are those of its slices, and its ports lead to their own.
func TestExpandService(t *testing.T) {
	n := newNamespace(t)
	n.newService(object{"clusterIP": "None"})
	for _, pod := range []string{"a", "b", "c", "d"} {
		n.newReady(pod)
	}
	n.setSlice(8080, member{"b", true, false}, member{"a", true, false}, member{"c", false, false})
	x := n.expand(t, "admin", "svc/web", target.Port{Name: "http"})
	x.await("a=0 b=1")
	x.want("a", "a:8080")
	x.want("b", "b:8080")
	n.setSlice(8080, member{"b", false, false}, member{"a", true, true}, member{"c", true, false})
	x.await("c=0 b=1") // b is there, and will be ready again
	n.setSlice(9090, member{"b", true, false}, member{"c", true, false}, member{"d", true, false})
	x.await("c=0 b=1 d=2")
	x.want("d", "d:9090")
	n.setSlice(9090)
	x.await("")
}

// The rights that a workload takes are enough, without a watch too.
func TestExpandWithFewRights(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 2)
	n.newReady("a")
	n.newReady("b")
	n.grant("poduser", "get deployments.apps", "list pods", "create pods/portforward")
	x := n.expand(t, "poduser", "deploy/web", target.Port{Remote: 8080})
	x.await("a=0 b=1")
	x.want("a", "a:8080")
	x.want("b", "b:8080")
	n.kill("a")
	n.newReady("c")
	x.await("c=0 b=1")
	x.want("c", "c:8080")
}

// However many pods there are, they are read and watched once for all of them.
func TestExpandReadsOnce(t *testing.T) {
	const pods = 20
	n := newNamespace(t)
	f := newFront(t, n)
	n.newWorkload("statefulsets", "web", pods)
	var all []string
	for i := range pods {
		n.newReady(fmt.Sprintf("web-%d", i))
		all = append(all, fmt.Sprintf("web-%d=%[1]d", i))
	}
	began := time.Now()
	x := expand(t, f.kubeconfig(t, n), "sts/web", target.Port{Remote: 8080})
	x.await(strings.Join(all, " "))
	for i := range pods {
		x.want(fmt.Sprintf("web-%d", i), fmt.Sprintf("web-%d:8080", i))
	}
	ofPods := func(a asked) bool { return strings.HasSuffix(a.url.Path, "/pods") }
	if asked := f.since(began, ofPods); len(asked) < 1 || len(asked) > 3 { // a list and a watch, which may break once
		t.Errorf("%d requests for pods", len(asked))
	}
	if asked := f.since(began, forTunnel); len(asked) < pods || len(asked) > 2*pods { // one that is slow gets another beside it
		t.Errorf("%d requests for tunnels", len(asked))
	}
}

func TestExpandOnePod(t *testing.T) {
	n := newNamespace(t)
	n.newReady("kuard")
	parsed, _ := target.Parse("kuard")
	o := &kube.Opener{Config: &kube.Config{Kubeconfig: n.kubeconfig(t, "admin", n.name)}}
	defer o.Close()
	var final *route.FinalError
	err := o.Expand(t.Context(), target.Forward{Target: parsed, Each: target.EachPorts}, nil, nil)
	if !errors.Is(err, kube.ErrOnePod) || !errors.As(err, &final) || err.Error() != "pod/kuard is one pod" {
		t.Errorf("Expand = %v", err)
	}
}
