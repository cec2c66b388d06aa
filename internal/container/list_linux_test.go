package container_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// onlyEngine has this test's environment lead to one engine, and to none of the machine's.
func onlyEngine(t *testing.T, host string) {
	t.Helper()
	none := "unix://" + filepath.Join(t.TempDir(), "none.sock")
	for _, name := range []string{"DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT"} {
		t.Setenv(name, none)
	}
	t.Setenv("DOCKER_HOST", host)
}

// awaitListed waits until a container listens as it should.
func awaitListed(t *testing.T, o *container.Opener, name string, ok func(container.Listed) bool) (all []container.Listed) {
	t.Helper()
	testenv.Await(t, name+" is listed as it should be", func() bool {
		var errs []error
		if all, errs = o.List(context.Background()); len(errs) > 0 {
			t.Fatal(errs)
		}
		i := slices.IndexFunc(all, func(l container.Listed) bool { return l.Name == name })
		return i >= 0 && ok(all[i])
	})
	return all
}

// Containers are listed with what listens inside of those that run, and whose it is.
func TestList(t *testing.T) {
	e := testenv.NewDocker(t)
	testenv.NoLeaks(t)
	onlyEngine(t, e.Host)
	e.Run(t, []string{"--name", "web", "--network", "none"}, testenv.Web...)
	e.Run(t, []string{"--name", "host", "--network", "host"}, "sleep", "1000")
	e.Do(t, "create", "--name", "made", "--network", "none", testenv.Image, "sleep", "1000")
	o := opener(t)
	all := awaitListed(t, o, "web", func(l container.Listed) bool { return len(l.Listening) == 1 })
	states := map[string]container.Listed{}
	for _, l := range all {
		states[l.Name] = l
	}
	web := states["web"]
	if s := web.Listening[0]; s.Address() != target.TCPPort(8080) || s.Command != "httpd" || s.PID == 0 || web.Target.String() != "docker://web" || web.State != container.Running {
		t.Errorf("web is listed as %+v", web)
	}
	if l := states["host"]; !l.HostNetwork || l.Listening != nil || l.Unseen != nil {
		t.Errorf("a container of the host's network is listed as %+v", l)
	}
	if l := states["made"]; l.State != container.Created || l.Listening != nil || l.Unseen != nil {
		t.Errorf("a container that was never started is listed as %+v", l)
	}
}

// Engines that do not run are left out without a word.
func TestListNothing(t *testing.T) {
	testenv.NoLeaks(t)
	onlyEngine(t, "unix:///nowhere/none.sock")
	if all, errs := opener(t).List(t.Context()); len(all) > 0 || len(errs) > 0 {
		t.Errorf("%v, %v", all, errs)
	}
}

// What listens in a container is told again when that has restarted.
func TestListeningFollows(t *testing.T) {
	e := testenv.NewDocker(t)
	onlyEngine(t, e.Host)
	e.Run(t, []string{"--name", "web"})
	r, _ := open(t, opener(t), "docker://web")
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan []target.Socket, 1000), make(chan error, 1)
	go func() { done <- r.Listening(ctx, func(now []target.Socket) { told <- now }) }()
	await := func(pid int) {
		for {
			select {
			case now := <-told:
				if len(now) == 1 && now[0].Address() == target.TCPPort(8080) && now[0].PID == pid {
					return
				}
			case <-time.After(testenv.Patience):
				t.Fatalf("what listens in process %d was not told", pid)
			}
		}
	}
	await(e.PID(t, "web"))
	e.Do(t, "restart", "-t", "0", "web")
	await(e.PID(t, "web"))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// An engine that takes connections and never answers is told by its name, and holds the list up no longer than it may.
func TestListOfSilentEngines(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "silent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT"} {
		t.Setenv(name, "unix://"+path)
	}
	all, errs := opener(t).List(t.Context())
	silent := map[target.Scheme]bool{}
	for _, err := range errs {
		var engine *container.EngineError
		if errors.As(err, &engine) && errors.Is(err, container.ErrNoAnswer) {
			silent[engine.Engine] = true
		} else {
			t.Error(err)
		}
	}
	if len(all) != 0 || len(silent) != 4 {
		t.Errorf("%v, silent %v, want all four engines", all, silent)
	}
}
