package container_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// eventLog keeps a route's events.
type eventLog struct {
	mu  sync.Mutex
	all []route.Event
}

func (l *eventLog) add(e route.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
}

// kinds are the kinds of the events so far.
func (l *eventLog) kinds() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kinds []string
	for _, e := range l.all {
		kinds = append(kinds, string(e.Kind))
	}
	return strings.ReplaceAll(strings.Join(kinds, " "), " waiting", "") // whether that is seen depends on how long it takes
}

// opener is an Opener for a test.
func opener(t *testing.T) *container.Opener {
	t.Helper()
	o := &container.Opener{MaxWait: testenv.Patience}
	t.Cleanup(o.Close)
	return o
}

// open opens a target, until the test ends.
func open(t *testing.T, o *container.Opener, text string) (*route.Result, *eventLog) {
	t.Helper()
	log := &eventLog{}
	r, err := tryOpen(t, o, text, log.add)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, log
}

func tryOpen(t *testing.T, o *container.Opener, text string, events func(route.Event)) (*route.Result, error) {
	t.Helper()
	to, err := target.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return o.Open(t.Context(), target.Forward{Target: to}, events)
}

// whoAnswers returns the host name of the container that answers a connection.
func whoAnswers(ctx context.Context, r route.Dialer) (string, error) {
	conn, err := r.Dial(ctx, target.TCPPort(8080))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /id HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	_, body, ok := strings.Cut(string(answer), "\r\n\r\n")
	if !ok {
		return "", fmt.Errorf("answer %q", answer)
	}
	return strings.TrimSpace(body), nil
}

// answers fails the test unless a container of that host name answers.
func answers(t *testing.T, r route.Dialer, want string) {
	t.Helper()
	if who, err := whoAnswers(t.Context(), r); err != nil || who != want {
		t.Errorf("%q answers, %v, want %q", who, err, want)
	}
}

// engineTest is a test with an engine, of which all containers are removed after it.
type engineTest func(t *testing.T, e *testenv.Engine, scheme string)

// withEngine runs tests with one engine, in any order.
func withEngine(t *testing.T, e *testenv.Engine, scheme string, tests map[string]engineTest) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { e.RemoveAll(t) })
			test(t, e, scheme)
		})
	}
}

// Most tests share an engine of each kind.
func TestContainers(t *testing.T) {
	both := map[string]engineTest{
		"names": testNames, "restart": testRestart, "replaced": testReplaced, "removed": testRemoved, "paused": testPaused,
		"service": testService, "listening": testListening, "listening follows": testListeningFollows, "listening without DNS": testListeningWithoutDNS,
		"Unix sockets": testUnixSocket, "states": testStates, "host network": testHostNetwork, "killed engine": testKilledEngine,
		"helper restart": testHelperRestart, "helper paused": testHelperPaused, "helper host network": testHelperHostNetwork,
	}
	t.Run("docker", func(t *testing.T) {
		e := testenv.NewDocker(t)
		onlyEngine(t, "DOCKER_HOST", e.Host)
		withEngine(t, e, "docker://", both)
		withEngine(t, e, "docker://", map[string]engineTest{
			"many": testMany, "permission": testPermission, "list": testList,
			"helper": testHelper, "helper without permission": testHelperWithoutPermission, "helper given up": testHelperGivenUp,
			"helper without engine": testHelperWithoutEngine,
		})
	})
	t.Run("podman", func(t *testing.T) {
		e := testenv.NewPodman(t)
		onlyEngine(t, "CONTAINER_HOST", e.Host)
		withEngine(t, e, "podman://", both)
		withEngine(t, e, "podman://", map[string]engineTest{"list": testListPodman, "helper": testHelperPodman})
	})
}

// onlyEngine has this test's environment lead to one engine by a variable, and to none of the machine's.
func onlyEngine(t *testing.T, variable, host string) {
	t.Helper()
	for _, name := range []string{"DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT"} {
		t.Setenv(name, "unix:///nowhere/none.sock")
	}
	t.Setenv(variable, host)
}
