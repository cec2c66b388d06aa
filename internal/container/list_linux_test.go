package container_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// awaitListed waits until a container is listed as it should be. An engine on a slow machine may answer too late at first.
func awaitListed(t *testing.T, o *container.Opener, name string, ok func(container.Listed) bool) (all []container.Listed) {
	t.Helper()
	testenv.Await(t, name+" is listed as it should be", func() bool {
		var errs []error
		if all, errs = o.List(context.Background()); len(errs) > 0 {
			t.Log(errs)
		}
		i := slices.IndexFunc(all, func(l container.Listed) bool { return l.Name == name })
		return len(errs) == 0 && i >= 0 && ok(all[i])
	})
	return all
}

// Containers are listed with what listens inside of those that run, and whose it is.
func testList(t *testing.T, e *testenv.Engine, _ string) {
	testenv.NoLeaks(t)
	e.Run(t, []string{"--name", "web", "--network", "none"}, testenv.Web...)
	e.Run(t, []string{"--name", "host", "--network", "host"}, "sleep", "1000")
	e.Run(t, []string{"--name", "silent", "--network", "none"}, "sleep", "1000")
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
	if l := states["silent"]; l.Listening == nil || len(l.Listening) > 0 || l.Unseen != nil {
		t.Errorf("a container in which nothing listens is listed as %+v", l)
	}
	if l := states["made"]; l.State != container.Created || l.Listening != nil || l.Unseen != nil {
		t.Errorf("a container that was never started is listed as %+v", l)
	}
}

// Engines that do not run are left out without a word.
func TestListNothing(t *testing.T) {
	testenv.NoLeaks(t)
	onlyEngine(t, "DOCKER_HOST", "unix:///nowhere/none.sock")
	if all, errs := opener(t).List(t.Context()); len(all) > 0 || len(errs) > 0 {
		t.Errorf("%v, %v", all, errs)
	}
}

// webAndDNS is testenv.Web, and listens besides where Docker's own DNS does.
var webAndDNS = []string{"sh", "-c", "httpd -p 127.0.0.11:5353 && " + testenv.Web[2]}

// Docker's DNS is nothing of a container's. An engine without it hides nothing.
func testListeningWithoutDNS(t *testing.T, e *testenv.Engine, scheme string) {
	want := map[string]int{"docker://": 1, "podman://": 2}[scheme]
	e.Run(t, []string{"--name", "web"}, webAndDNS...)
	o := opener(t)
	awaitListed(t, o, "web", func(l container.Listed) bool {
		return len(l.Listening) == want && slices.ContainsFunc(l.Listening, isWeb)
	})
	r, _ := open(t, o, scheme+"web")
	ctx, cancel := context.WithCancel(t.Context())
	_ = r.Listening(ctx, func(now []target.Socket) {
		if len(now) != want {
			t.Errorf("%v listen, want %d", now, want)
		}
		cancel()
	})
}

func isWeb(s target.Socket) bool { return s.Address() == target.TCPPort(8080) }

// What listens in a container is told again when that has restarted.
func testListeningFollows(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web"})
	r, _ := open(t, opener(t), scheme+"web")
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
	e.Do(t, "restart", "web")
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

// relay has a socket that leads to an engine's, and returns what clients have asked there so far.
func relay(t *testing.T, host string) (near string, asked func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	var all bytes.Buffer
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			engine, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
			if err != nil {
				conn.Close()
				continue
			}
			go func() { _, _ = io.Copy(struct{ io.Writer }{conn}, engine); conn.Close() }()
			go func() {
				defer engine.Close()
				for b := make([]byte, 4096); ; {
					n, err := conn.Read(b)
					mu.Lock()
					all.Write(b[:n])
					mu.Unlock()
					if _, failed := engine.Write(b[:n]); err != nil || failed != nil {
						return
					}
				}
			}()
		}
	}()
	return "unix://" + path, func() string { mu.Lock(); defer mu.Unlock(); return all.String() }
}

// An engine whose containers no cgroup names, as without root on cgroups v1, is not asked about each: that would take
// a second for some hundred.
func testListAsksOnce(t *testing.T, e *testenv.Engine, scheme string) {
	near, asked := relay(t, e.Host)
	t.Setenv(map[string]string{"podman://": "CONTAINER_HOST", "docker://": "DOCKER_HOST"}[scheme], near)
	e.Run(t, []string{"--name", "web"})
	o := opener(t)
	awaitListed(t, o, "web", func(l container.Listed) bool { return len(l.Listening) == 1 && l.Listening[0].Command == "httpd" })
	if text := asked(); !strings.Contains(text, "/containers/json?all=") || strings.Contains(text, "/containers/web/json") {
		t.Errorf("the engine was asked:\n%s", text)
	}
}

// What podman's own list tells of a container is what Docker's does.
func testListPodman(t *testing.T, e *testenv.Engine, _ string) {
	testenv.NoLeaks(t)
	e.Run(t, []string{"--name", "silent", "--network", "none"}, "sleep", "1000")
	e.Do(t, "create", "--name", "made", "--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web",
		"-p", "127.0.0.1:8081:80", "-p", "9000-9001:7000-7001/udp", "-p", "9009:9/sctp", testenv.Image, "sleep", "1000")
	e.Run(t, []string{"--name", "host", "--network", "host"}, "sleep", "1000")
	e.Run(t, []string{"--name", "ended"}, "sleep", "0")
	e.Do(t, "wait", "ended")
	all := awaitListed(t, opener(t), "host", func(l container.Listed) bool { return l.HostNetwork && l.Listening == nil && l.Unseen == nil })
	states := map[string]container.Listed{}
	for _, l := range all {
		states[l.Name] = l
	}
	made := states["made"]
	if made.Target.String() != "podman://made" || made.State != container.Created || len(made.ID) != 64 || made.Service.String() != "podman://shop/web" || made.Image == "" {
		t.Errorf("listed as %+v", made)
	}
	want := []container.Published{
		{Network: target.TCP, Port: 80, Address: "127.0.0.1", Host: 8081},
		{Network: target.UDP, Port: 7000, Host: 9000}, {Network: target.UDP, Port: 7001, Host: 9001},
	}
	slices.SortFunc(made.Published, func(a, b container.Published) int { return cmp.Compare(a.Host, b.Host) })
	if !slices.Equal(made.Published, want) {
		t.Errorf("published %+v, want %+v", made.Published, want)
	}
	if s := states["ended"].State; s != container.Exited {
		t.Errorf("a container that has ended is listed as %q", s)
	}
}
