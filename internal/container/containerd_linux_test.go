package container_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// containerd starts a containerd, which targets are of.
func containerd(t *testing.T, within ...string) *testenv.Containerd {
	t.Helper()
	c := testenv.NewContainerd(t, within...)
	t.Setenv("CONTAINERD_ADDRESS", c.Socket)
	t.Setenv("CONTAINERD_NAMESPACE", c.Namespace)
	t.Setenv("CONTAINER_RUNTIME_ENDPOINT", c.Socket)
	return c
}

// startAgain starts a container whose task was killed.
func startAgain(t *testing.T, c *testenv.Containerd, id string) {
	t.Helper()
	testenv.Await(t, "the task has stopped", func() bool { return c.Command("tasks", "rm", id).Run() == nil })
	c.Do(t, "tasks", "start", "-d", "--null-io", id)
}

// goes waits until a route's events, but for reasons to wait, are these.
func goes(t *testing.T, log *eventLog, want string) {
	t.Helper()
	testenv.Await(t, "the route tells "+want, func() bool { return strings.ReplaceAll(log.kinds(), " waiting", "") == want })
}

// Tests share a containerd, unless it is killed or run in another way.
func TestContainerd(t *testing.T) {
	c := containerd(t)
	for name, test := range map[string]func(*testing.T, *testenv.Containerd){
		"names": testContainerdNames, "removed": testContainerdRemoved, "host network": testContainerdHostNetwork, "list": testContainerdList,
		"wrong": testContainerdWrong, "pods": testCRI, "pods' names": testCRINames, "pods' Unix sockets": testCRIUnixSockets,
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { c.RemoveAll(t) })
			test(t, c)
		})
	}
}

// A container is reached by its ID, the beginning of that or the name that nerdctl has given it, and followed to its next task.
func testContainerdNames(t *testing.T, c *testenv.Containerd) {
	c.Run(t, "web", "one")
	c.Run(t, "0123456789abcdef", "named", "--label", "nerdctl/name=shop")
	testenv.NoLeaks(t)
	o := opener(t)
	for name, want := range map[string]string{"web": "one", c.Namespace + "/web": "one", "we": "one", "shop": "named", "0123": "named"} {
		r, log := open(t, o, "containerd://"+name)
		answers(t, r, want)
		if kinds := log.kinds(); kinds != "ready" {
			t.Errorf("%s: events %s", name, kinds)
		}
	}
	r, log := open(t, o, "containerd://web")
	c.Do(t, "tasks", "kill", "-s", "KILL", "web")
	goes(t, log, "ready reconnecting")
	startAgain(t, c, "web")
	answers(t, r, "one")
	goes(t, log, "ready reconnecting ready")

	c.Do(t, "tasks", "rm", "-f", "web")
	c.Do(t, "containers", "rm", "web")
	c.Run(t, "web", "two")
	answers(t, r, "two")
}

// A container that was named by the beginning of its ID is not followed to another one.
func testContainerdRemoved(t *testing.T, c *testenv.Containerd) {
	c.Run(t, "web-1", "one")
	testenv.NoLeaks(t)
	r, _ := open(t, opener(t), "containerd://web")
	c.Do(t, "tasks", "rm", "-f", "web-1")
	c.Do(t, "containers", "rm", "web-1")
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	if err := r.Wait(ctx); !errors.Is(err, container.ErrRemoved) {
		t.Errorf("wait: %v", err)
	}
}

// Connections go on and are made while containerd is away, and its next one's events are followed.
func TestContainerdKilled(t *testing.T) {
	testenv.NoLeaks(t) // its next one has other descriptors of this process
	c := containerd(t)
	c.Run(t, "web", "one")
	r, log := open(t, opener(t), "containerd://web")
	c.Kill()
	answers(t, r, "one")
	c.Start(t)
	answers(t, r, "one")
	if kinds := log.kinds(); kinds != "ready" {
		t.Errorf("events %s", kinds)
	}
	c.Do(t, "tasks", "kill", "-s", "KILL", "web")
	goes(t, log, "ready reconnecting")
	startAgain(t, c, "web")
	answers(t, r, "one")
}

// containerd may be in a PID namespace of its own, and its containers' numbers are others here.
func TestContainerdElsewhere(t *testing.T) {
	c := containerd(t, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
	c.Run(t, "web", "one")
	testenv.NoLeaks(t)
	r, _ := open(t, opener(t), "containerd://web")
	testenv.Await(t, "the container answers", func() bool { who, err := whoAnswers(t.Context(), r); return err == nil && who == "one" })
}

// A container on its host's network is reached there, which is told.
func testContainerdHostNetwork(t *testing.T, c *testenv.Containerd) {
	c.Do(t, "run", "-d", "--null-io", "--snapshotter", "native", "--net-host", "docker.io/library/"+testenv.Image, "web", "sleep", "1000")
	testenv.NoLeaks(t)
	r, log := open(t, opener(t), "containerd://web")
	if kinds := log.kinds(); kinds != "carried ready" || !errors.Is(log.all[0].Err, container.ErrHostNetwork) {
		t.Errorf("events %s", kinds)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := r.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// All containers are listed by names that lead to them, but for those that other engines list.
func testContainerdList(t *testing.T, c *testenv.Containerd) {
	c.Run(t, "web", "one")
	c.Run(t, "0123456789abcdef", "named", "--label", "nerdctl/name=shop")
	image := "docker.io/library/" + testenv.Image
	c.Do(t, "containers", "create", "--snapshotter", "native", image, "made")
	c.Do(t, "-n", "k8s.io", "containers", "create", "--snapshotter", "native", image, "pod")
	defer c.Do(t, "-n", "k8s.io", "containers", "rm", "pod")
	testenv.NoLeaks(t)
	all, err := container.ListOf(t.Context(), target.Containerd)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range all {
		got = append(got, fmt.Sprintf("%s %s %s", l.Target, l.Name, l.State))
	}
	slices.Sort(got)
	want := []string{"containerd://made made without a task", "containerd://shop shop running", "containerd://web web running"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// What is wrong has a type of error each.
func testContainerdWrong(t *testing.T, c *testenv.Containerd) {
	c.Run(t, "web-1", "one")
	c.Run(t, "web-2", "two")
	image := "docker.io/library/" + testenv.Image
	c.Do(t, "containers", "create", "--snapshotter", "native", image, "made")
	c.Do(t, "tasks", "pause", "web-2")
	defer c.Do(t, "tasks", "resume", "web-2")
	testenv.NoLeaks(t)
	o := opener(t)
	for text, want := range map[string]struct {
		err  error
		text string
	}{
		"nothing":     {container.ErrNoContainer, "no such container: nothing"},
		"web":         {container.ErrAmbiguous, "the IDs of several containers begin with web: web-1 (web-1), web-2 (web-2)"},
		"other/web-1": {container.ErrNoContainer, "no such container: web-1"},
		"made":        {container.ErrNotRunning, "container made is not running (it has no task)"},
		"web-2":       {container.ErrNotRunning, "container web-2 is paused"},
	} {
		_, err := tryOpen(t, o, "containerd://"+text, func(route.Event) {})
		if !errors.Is(err, want.err) || err.Error() != want.text {
			t.Errorf("%s: %v, want %s", text, err, want.text)
		}
		var missing *container.NotFoundError
		if text == "other/web-1" && (!errors.As(err, &missing) || !slices.Equal(missing.Similar, []string{"containerd://" + c.Namespace + "/web-1"})) {
			t.Errorf("%s: %+v", text, missing)
		}
	}
}

// An engine that cannot be asked is told from one that has no such container.
func TestRuntimeWrong(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	other := filepath.Join(dir, "other.sock") // serves something else
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	go server.Serve(l)
	defer server.Stop()
	dead := filepath.Join(dir, "dead.sock")
	gone, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	gone.SetUnlinkOnClose(false)
	gone.Close()
	for socket, want := range map[string]error{filepath.Join(dir, "none"): container.ErrNoEngine, dead: container.ErrNoEngine, other: container.ErrNoInterface, "x": container.ErrEndpoint} {
		t.Setenv("CONTAINERD_ADDRESS", socket)
		t.Setenv("CONTAINER_RUNTIME_ENDPOINT", socket)
		for _, text := range []string{"containerd://web", "cri://web"} {
			o := opener(t) // which keeps the engines that it has found
			_, err := tryOpen(t, o, text, func(route.Event) {})
			var engine *container.EngineError
			if !errors.Is(err, want) || !errors.As(err, &engine) {
				t.Errorf("%s at %s: %v, want %v", text, socket, err, want)
			}
		}
	}
}

// Whose socket it is not is told which group's members may use it, if there is one.
func TestRuntimeNotPermitted(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	dir, err := os.MkdirTemp("", "socket") // a test's own is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const nobody, daemon = 65534, 1
	path := filepath.Join(dir, "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for mode, group := range map[os.FileMode]string{0o600: "", 0o660: "daemon"} {
		if err := errors.Join(os.Chown(path, 0, daemon), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		err := container.DialAs(t.Context(), target.Containerd, path, nobody)
		var engine *container.EngineError
		if !errors.Is(err, container.ErrEnginePermission) || !errors.As(err, &engine) || engine.Group != group {
			t.Errorf("mode %o: %v, %+v", mode, err, engine)
		}
	}
}
