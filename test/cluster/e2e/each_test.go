package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestEach has a StatefulSet of three pods, each forwarded to by itself, while connections are made to all of
// them all the time: through a rollout, which replaces each pod, and through scaling down and up.
func TestEach(t *testing.T) {
	ctx := needCluster(t)
	apply(t, ctx, workload("apps/v1", "StatefulSet", "db", "replicas: 3, serviceName: db,")+service("db", "db", "clusterIP: None,"))
	kubectl(t, ctx, "rollout", "status", "sts/db", "--timeout=180s")
	port, ready := freePort(t), filepath.Join(t.TempDir(), "ready")
	p := start(t, "forward", "--each=addresses", "sts/db", port+":8080", "--ready-file", ready)
	address := func(ordinal int) string { return fmt.Sprintf("127.0.0.%d:%s", 2+ordinal, port) }
	for ordinal := range 3 {
		p.await(t, p.stdout, fmt.Sprintf("^Forwarding from %s -> 8080 of db-%d$", address(ordinal), ordinal))
	}
	awaitReady(t, ready, address(0)+" 8080 db-0\n"+address(1)+" 8080 db-1\n"+address(2)+" 8080 db-2\n")

	var asking []*asker
	for ordinal := range 3 {
		asking = append(asking, askAlways(t, address(ordinal), fmt.Sprintf("db-%d ", ordinal)))
	}
	kubectl(t, ctx, "rollout", "restart", "sts/db")
	kubectl(t, ctx, "rollout", "status", "sts/db", "--timeout=180s")
	for ordinal, a := range asking {
		a.wantAnswers(t)
		if n := strings.Count(p.stderr(), fmt.Sprintf("db-%d: lost connection", ordinal)); n > 1 {
			t.Errorf("told %d times of one loss:\n%s", n, p.stderr())
		}
	}
	if strings.Contains(p.stderr(), "no longer part of") {
		t.Errorf("a pod that was replaced has left:\n%s", p.stderr())
	}

	asking[2].stop(t)
	kubectl(t, ctx, "scale", "sts/db", "--replicas=2")
	p.await(t, p.stderr, "^porthole: db-2: no longer part of sts/db$")
	awaitReady(t, ready, address(0)+" 8080 db-0\n"+address(1)+" 8080 db-1\n")
	if answer, err := say(address(2), "who\n"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("db-2 has left, and its listener says %q, %v", answer, err)
	}
	kubectl(t, ctx, "scale", "sts/db", "--replicas=3")
	p.await(t, p.stdout, fmt.Sprintf("(?s)%s -> 8080 of db-2$.*%[1]s -> 8080 of db-2$", address(2)))
	if pod := who(t, address(2)); pod != "db-2" {
		t.Errorf("db-2's listener leads to %s", pod)
	}
	for _, a := range asking[:2] {
		a.wantAnswers(t)
		a.stop(t)
	}
	p.interrupt(t)
}

// TestEachOfService has the pods of a headless service, with the service's port.
func TestEachOfService(t *testing.T) {
	ctx := needCluster(t)
	applyReady(t, ctx, "headless", 2)
	apply(t, ctx, service("headless", "headless", "clusterIP: None,"))
	waitEndpoints(t, ctx, "headless")
	p := start(t, "forward", "--each", "svc/headless", ":http", "-o", "json")
	first := p.await(t, p.stdout, `"event":"listening","target":"svc/headless","pod":"(headless-[^"]+)","listen":"(127[^"]+)"`)
	if pod := who(t, first[1]); pod != first[0] {
		t.Errorf("the listener of %s leads to %s", first[0], pod)
	}
	kubectl(t, ctx, "delete", "pod", first[0], "--wait=false")
	p.await(t, p.stdout, `"event":"ended","target":"svc/headless","pod":"`+first[0]+`"`)
	pods := func() (names map[string]bool) {
		names = map[string]bool{}
		for _, name := range strings.Fields(kubectl(t, ctx, "get", "pods", "-l", "app=headless", "-o", "jsonpath={.items[*].metadata.name}")) {
			names[name] = true
		}
		delete(names, first[0])
		return names
	}
	for end := time.Now().Add(patience); len(pods()) < 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no successor")
		}
	}
	for name := range pods() {
		listener := p.await(t, p.stdout, `"event":"listening","target":"svc/headless","pod":"`+name+`","listen":"(127[^"]+)"`)
		if pod := who(t, listener[0]); pod != name {
			t.Errorf("the listener of %s leads to %s", name, pod)
		}
	}
	p.interrupt(t)
}

// awaitReady waits until the ready file has a text. Lines of ::1 do not come with addresses.
func awaitReady(t *testing.T, file, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err == nil && string(text) == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the ready file has %q, %v, want %q", text, err, want)
		}
	}
}

// asker makes connections to one pod all the time.
type asker struct {
	address, pod string
	end          context.CancelFunc
	done         chan struct{}

	mu           sync.Mutex
	made, failed int
	wrong        []string // answers of others
	longest      time.Duration
}

func askAlways(t *testing.T, address, pod string) *asker {
	ctx, end := context.WithCancel(t.Context())
	a := &asker{address: address, pod: pod, end: end, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		for ctx.Err() == nil {
			a.ask()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { end(); <-a.done })
	return a
}

func (a *asker) ask() {
	began := time.Now()
	answer, err := say(a.address, "who\n")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made++
	a.longest = max(a.longest, time.Since(began))
	if err != nil {
		a.failed++
	} else if !strings.HasPrefix(answer, a.pod) {
		a.wrong = append(a.wrong, answer)
	}
}

// wantAnswers wants all connections so far to have been answered by the pod, but for few that were on their way to it
// when it ended.
func (a *asker) wantAnswers(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	t.Logf("%s: %d connections, %d failed, the longest took %v", a.pod, a.made, a.failed, a.longest.Round(time.Millisecond))
	if len(a.wrong) > 0 || a.failed > 10 || a.made == 0 {
		t.Errorf("%s: of %d connections %d failed, and others answered %q", a.pod, a.made, a.failed, a.wrong)
	}
}

// stop makes no more connections.
func (a *asker) stop(t *testing.T) {
	t.Helper()
	a.end()
	select {
	case <-a.done:
	case <-time.After(patience):
		t.Fatal("a connection does not end")
	}
}
