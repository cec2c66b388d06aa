package kube_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

var _ route.Dialer = (*kube.Route)(nil)

// journey is a Route in a test.
type journey struct {
	*kube.Route
	t testing.TB

	mu     sync.Mutex
	events []route.Event
}

// route prepares one to a target, as a user.
func (n *namespace) route(t testing.TB, user, to string) *journey {
	t.Helper()
	parsed, err := target.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	j := &journey{t: t}
	j.Route = &kube.Route{
		Cluster: n.open(t, user, n.name), Target: parsed,
		MaxWait: testenv.Patience, PodRunningTimeout: testenv.Patience,
		Events: j.note,
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// opened is route after Open.
func (n *namespace) opened(t testing.TB, user, to string) *journey {
	t.Helper()
	j := n.route(t, user, to)
	j.open()
	return j
}

func (j *journey) open() {
	j.t.Helper()
	if err := j.Open(j.t.Context()); err != nil {
		j.t.Fatalf("open %s: %v", j.Target, err)
	}
}

func (j *journey) note(e route.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
}

// story is all events as text.
func (j *journey) story() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []string
	for _, e := range j.events {
		pod := e.Pod
		if e.Kind == route.Reconnecting { // where connections went, which the event before has told
			pod = ""
		}
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s", e.Kind, pod)))
	}
	return strings.Join(all, ", ")
}

func (j *journey) awaitStory(want string) {
	j.t.Helper()
	for end := time.Now().Add(testenv.Patience); j.story() != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			j.t.Fatalf("told %q, want %q", j.story(), want)
		}
	}
}

// reach makes a connection and returns the pod and port that it came to.
func (j *journey) reach(port uint16) (string, error) {
	conn, err := j.Dial(j.t.Context(), target.TCPPort(port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return greeting(conn)
}

func greeting(conn pipe.Conn) (string, error) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func (j *journey) want(port uint16, want string) {
	j.t.Helper()
	if got, err := j.reach(port); err != nil || got != want {
		j.t.Fatalf("port %d leads to %q, %v, want %s", port, got, err, want)
	}
}

// pods are where n connections come to.
func (j *journey) pods(port uint16, n int) (all []string) {
	j.t.Helper()
	for range n {
		at, err := j.reach(port)
		if err != nil {
			j.t.Fatal(err)
		}
		all = append(all, at)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestPod(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newReady("kuard")
	j := n.opened(t, "admin", "kuard")
	j.awaitStory("ready kuard")
	j.want(8080, "kuard:8080")
	j.want(9, "kuard:9")

	conn, err := j.Dial(t.Context(), target.TCPPort(80))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); err != nil || string(all) != "kuard:80\nhello" {
		t.Errorf("read %q, %v", all, err)
	}
}

func TestWorkloads(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web-1")
	for _, resource := range []string{"deployments", "replicasets", "statefulsets", "daemonsets"} {
		n.newWorkload(resource, "web", 1)
	}
	n.create("replicationcontrollers", object{"metadata": object{"name": "web"}, "spec": object{
		"selector": object{"app": "web"}, "template": object{"metadata": object{"labels": object{"app": "web"}},
			"spec": object{"containers": []object{{"name": "main", "image": "main"}}}}}})
	n.create("jobs", object{"metadata": object{"name": "web"}, "spec": object{
		"manualSelector": true, "selector": object{"matchLabels": object{"app": "web"}},
		"template": object{"metadata": object{"labels": object{"app": "web"}}, "spec": object{"restartPolicy": "Never",
			"containers": []object{{"name": "main", "image": "main"}}}}}})
	for _, to := range []string{
		"deploy/web", "deployment/web", "deployments.apps/web", "deployments.v1.apps/web",
		"rs/web", "sts/web", "ds/web", "rc/web", "job/web",
	} {
		t.Run(to, func(t *testing.T) {
			j := n.opened(t, "admin", to)
			defer j.Close()
			j.want(8080, "web-1:8080")
		})
	}
}

// The pod goes, in all the ways that pods go, and a ready one takes its place.
func TestRollout(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	j := n.opened(t, "admin", "deploy/web")
	j.want(80, "web-1:80")

	// There is another before the first one ends: nothing is interrupted.
	n.newReady("web-2")
	n.terminate("web-1")
	j.awaitStory("ready web-1, ready web-2")
	j.want(80, "web-2:80")
	n.kill("web-1")

	// It is not ready any more, and another takes a while to be.
	n.newPod("web-3")
	n.setReady("web-3", false)
	n.setReady("web-2", false)
	j.awaitStory("ready web-1, ready web-2, reconnecting")
	time.AfterFunc(500*time.Millisecond, func() { n.setReady("web-3", true) })
	j.want(80, "web-3:80")
	j.awaitStory("ready web-1, ready web-2, reconnecting, ready web-3")

	// It is gone at once.
	n.kill("web-3")
	n.setReady("web-2", true)
	j.want(80, "web-2:80")
}

// A connection that is under way when its pod is told to end has until its end.
func TestTerminatingPodKeepsItsConnections(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	n.newReady("web-2")
	j := n.opened(t, "admin", "deploy/web")
	conn, err := j.Dial(t.Context(), target.TCPPort(80))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	at, err := greeting(conn)
	if err != nil {
		t.Fatal(err)
	}
	pod, _, _ := strings.Cut(at, ":")
	n.terminate(pod)
	other := map[string]string{"web-1": "web-2", "web-2": "web-1"}[pod]
	j.awaitStory("ready " + pod + ", ready " + other)
	echoes(t, conn)
	n.kill(pod)
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("reading from a pod that is gone: %v, want an error", err)
	}
}

func echoes(t testing.TB, conn pipe.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "still"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "still" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestPodComesBack(t *testing.T) {
	n := newNamespace(t)
	n.newReady("db-0")
	j := n.opened(t, "admin", "pod/db-0")
	n.kill("db-0")
	j.awaitStory("ready db-0, reconnecting")
	time.AfterFunc(300*time.Millisecond, func() { n.newReady("db-0") })
	j.want(80, "db-0:80")
	j.awaitStory("ready db-0, reconnecting, ready db-0")
}

func TestWaitEnds(t *testing.T) {
	n := newNamespace(t)
	n.newReady("db-0")
	j := n.route(t, "admin", "pod/db-0")
	j.MaxWait = 300 * time.Millisecond
	j.open()
	n.setStatus("db-0", object{"phase": "Running", "conditions": []object{},
		"containerStatuses": []object{{"name": "main", "ready": false, "image": "main", "imageID": "main", "restartCount": 3,
			"state": object{"waiting": object{"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}}}})
	j.awaitStory("ready db-0, reconnecting")
	began := time.Now()
	_, err := j.reach(80)
	var waited *kube.WaitError
	var why *kube.NotReadyError
	if !errors.As(err, &waited) || !errors.As(err, &why) || why.Pods[0].Reason != "CrashLoopBackOff" {
		t.Errorf("Dial = %v, want a WaitError that tells of CrashLoopBackOff", err)
	}
	if took := time.Since(began); took < j.MaxWait {
		t.Errorf("waited %v, want %v", took, j.MaxWait)
	}
}

func TestRefusedIsOnesOwn(t *testing.T) {
	n := newNamespace(t)
	n.newReady("kuard")
	j := n.opened(t, "admin", "kuard")
	conn, err := j.Dial(t.Context(), target.TCPPort(80))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := greeting(conn); err != nil {
		t.Fatal(err)
	}
	if at, err := j.reach(1); err == nil {
		t.Errorf("a refused port leads to %q", at)
	}
	echoes(t, conn)
	j.awaitStory("ready kuard")
}

func TestAPIServerRestarts(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	j := n.route(t, "admin", "deploy/web")
	j.MaxWait = 3 * testenv.Patience
	j.open()
	n.apiServer.kill()
	j.awaitStory("ready web-1, reconnecting")
	waiting := make(chan error, 1)
	go func() {
		at, err := j.reach(80)
		if err == nil && at != "web-1:80" {
			err = fmt.Errorf("came to %s", at)
		}
		waiting <- err
	}()
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	ready := time.Now()
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	t.Logf("the connection came through %v after the API server was ready", time.Since(ready))
	j.awaitStory("ready web-1, reconnecting, ready web-1")

	// The watch is back too.
	n.newReady("web-2")
	n.kill("web-1")
	j.awaitStory("ready web-1, reconnecting, ready web-1, ready web-2")
}

// A node refuses, but the API server takes its pod for ready.
func TestNodeFails(t *testing.T) {
	n := newNamespace(t)
	n.newWorkload("deployments", "web", 1)
	n.newReady("web-1")
	n.tellNode(t, "down", "web-1")
	var refused *portforward.StatusError
	if err := n.route(t, "admin", "deploy/web").Open(t.Context()); !errors.As(err, &refused) || refused.Code != 500 {
		t.Errorf("Open = %v, want the node's refusal", err)
	}
	n.newReady("web-2")
	n.opened(t, "admin", "deploy/web").want(80, "web-2:80")

	// The service's connections continue with those that can be reached.
	n.newService(nil)
	n.setSlice(8080, member{pod: "web-1", ready: true}, member{pod: "web-2", ready: true})
	j := n.opened(t, "admin", "svc/web")
	if got := fmt.Sprint(j.pods(80, 6)); got != "[web-2:8080]" {
		t.Errorf("connections come to %s", got)
	}
	if strings.Contains(j.story(), ",") {
		t.Errorf("told %q, want nothing but ready", j.story())
	}
	n.tellNode(t, "up", "web-1")
	j.eventually("[web-1:8080 web-2:8080]")
}

func TestCloseEndsDial(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newReady("kuard")
	j := n.opened(t, "admin", "kuard")
	n.kill("kuard")
	j.awaitStory("ready kuard, reconnecting")
	ended := make(chan error, 1)
	go func() {
		_, err := j.reach(80)
		ended <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a connection came up after Close")
		}
	case <-time.After(testenv.Patience):
		t.Error("Dial goes on after Close")
	}
}

func TestOpenEndsWithContext(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	n.newPod("kuard")
	j := n.route(t, "admin", "kuard")
	j.PodRunningTimeout = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := j.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open = %v, want the context's error", err)
	}
}

// Whoever comes first after a pod's sandbox was made anew is served by the new one, and
// with all that it has sent.
func TestSandboxMadeAnew(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web")
	j := n.opened(t, "admin", "pod/web")
	j.want(80, "web:80")
	for _, question := range []string{"", "hello", strings.Repeat("x", 60_000)} {
		n.tellNode(t, "anew", "web")
		conn, err := j.Dial(t.Context(), target.TCPPort(80))
		if err != nil {
			t.Fatal(err)
		}
		wantEcho(t, conn, question)

		n.tellNode(t, "anew", "web") // and once more, with a local connection before it
		if conn, err = j.Dial(t.Context(), target.TCPPort(80)); err != nil {
			t.Fatal(err)
		}
		local, accepted := testenv.TCPPair(t)
		var copier pipe.Copier
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = copier.Copy(accepted, conn)
		}()
		wantEcho(t, local, question)
		<-done
		copier.Close()
	}
}

func wantEcho(t *testing.T, conn pipe.Conn, question string) {
	t.Helper()
	defer conn.Close()
	if _, err := io.WriteString(conn, question); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "web:80\n"+question {
		t.Errorf("%d bytes sent, %d came back, %v", len(question), len(got), err)
	}
}
