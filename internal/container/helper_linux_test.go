package container_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// helperOpener is an Opener for a test, with a porthole that helpers can run.
func helperOpener(t *testing.T) *container.Opener {
	t.Helper()
	o := opener(t)
	o.AgentBinary = testenv.Porthole(t)
	return o
}

// openVia opens a target by a way, until the test ends.
func openVia(t *testing.T, o *container.Opener, text string, via target.Via, ports ...target.Port) (*route.Result, *eventLog) {
	t.Helper()
	to, err := target.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	log := &eventLog{}
	r, err := o.Open(t.Context(), target.Forward{Target: to, Via: via, Ports: ports}, log.add)
	if err != nil {
		t.Fatalf("%s via %s: %v", text, via, err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, log
}

// helperIDs are the containers of helpers in an engine, in whatever state.
func helperIDs(t *testing.T, e *testenv.Engine) []string {
	t.Helper()
	return strings.Fields(e.Do(t, "ps", "-aq", "--no-trunc", "--filter", "label=porthole.dev/helper"))
}

// noHelpers fails the test if helpers' containers are left at its end, after the cleanups that are registered later.
func noHelpers(t *testing.T, e *testenv.Engine) {
	t.Helper()
	t.Cleanup(func() {
		if ids := helperIDs(t, e); len(ids) > 0 {
			t.Errorf("helper containers are left: %v", ids)
		}
	})
}

// A helper container leads into its container, in all networks, until it is closed.
func testHelper(t *testing.T, docker *testenv.Engine, _ string) {
	docker.Run(t, []string{"--name", "web", "--hostname", "one"})
	noHelpers(t, docker)
	testenv.NoLeaks(t)
	r, log := openVia(t, helperOpener(t), "docker://web", target.ViaAgent)
	answers(t, r, "one")
	if kinds := log.kinds(); kinds != "carried ready" || log.all[0].Via != target.ViaAgent {
		t.Errorf("events %s", kinds)
	}
	if ids := helperIDs(t, docker); len(ids) != 1 {
		t.Errorf("helpers %v, want 1", ids)
	}
	t.Run("half-close", func(t *testing.T) { halfCloses(t, docker, r) })
	t.Run("the way back", func(t *testing.T) { listensIn(t, docker, r) })
	t.Run("Unix socket", func(t *testing.T) { reachesSocket(t, docker, r) })
	t.Run("killed", func(t *testing.T) {
		docker.Do(t, append([]string{"kill"}, helperIDs(t, docker)...)...)
		testenv.Await(t, "another helper carries", func() bool {
			who, err := whoAnswers(t.Context(), r)
			return err == nil && who == "one"
		})
	})
	t.Run("restarted", func(t *testing.T) {
		docker.Do(t, "restart", "web")
		testenv.Await(t, "the container answers again", func() bool {
			who, err := whoAnswers(t.Context(), r)
			return err == nil && who == "one"
		})
	})
	t.Run("made again", func(t *testing.T) {
		docker.Do(t, "rm", "-f", "web")
		docker.Run(t, []string{"--name", "web", "--hostname", "two"})
		testenv.Await(t, "the next container answers", func() bool {
			who, err := whoAnswers(t.Context(), r)
			return err == nil && who == "two"
		})
	})
}

// Connections through a helper wait for a container that restarts, as others do: also when it has ended and its engine has
// not told yet. One that was there before may be cut.
func testHelperRestart(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	noHelpers(t, e)
	testenv.NoLeaks(t)
	r, _ := openVia(t, helperOpener(t), scheme+"web", target.ViaAgent)
	answers(t, r, "one")
	client := dialUDP(t, r)
	restarted := make(chan struct{})
	go func() { defer close(restarted); e.Do(t, "restart", "web") }()
	over := func() bool {
		select {
		case <-restarted:
			return true
		default:
			return false
		}
	}
	var work sync.WaitGroup
	for range 10 {
		work.Go(func() {
			for i := 0; i < 10 || !over(); i++ {
				if _, err := whoAnswers(t.Context(), r); wasRefused(err) {
					t.Errorf("while the container restarts: %v", err)
				}
			}
		})
	}
	work.Wait()
	endsWithContainer(t, client)
	answers(t, r, "one")
}

// wasRefused reports whether a connection failed for another reason than that it was cut.
func wasRefused(err error) bool {
	var helper *container.HelperError
	var state *container.StateError
	var wait *container.WaitError
	return errors.As(err, &helper) || errors.As(err, &state) || errors.As(err, &wait) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, tunnel.ErrTunnel)
}

// While its engine is away no helper can be started, and connections wait, as they do for a container.
func testHelperWithoutEngine(t *testing.T, docker *testenv.Engine, _ string) {
	docker.Run(t, []string{"--name", "web", "--hostname", "one"})
	noHelpers(t, docker)
	o := helperOpener(t)
	o.MaxWait = time.Second
	r, _ := openVia(t, o, "docker://web", target.ViaAgent)
	answers(t, r, "one")
	docker.Kill(t)
	var wait *container.WaitError
	testenv.Await(t, "the helper is lost", func() bool {
		_, err := whoAnswers(t.Context(), r)
		return errors.As(err, &wait)
	})
	docker.Start(t)
	docker.Do(t, "start", "web")
	testenv.Await(t, "the container answers again", func() bool {
		who, err := whoAnswers(t.Context(), r)
		return err == nil && who == "one"
	})
}

// Connections to a container that is paused live on, and new ones wait.
func testHelperPaused(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"}, "nc", "-ll", "-p", "8080", "-e", "cat")
	noHelpers(t, e)
	r, log := openVia(t, helperOpener(t), scheme+"web", target.ViaAgent)
	var conn pipe.Conn
	testenv.Await(t, "nc listens", func() (ok bool) {
		conn, ok = echoes(t, r)
		return ok
	})
	defer conn.Close()
	if out, err := e.Command("pause", "web").CombinedOutput(); err != nil {
		testenv.Lacking(t, fmt.Sprintf("cgroups that can freeze: %s", out))
	}
	testenv.Await(t, "the route tells of the pause", func() bool { return log.kinds() == "carried ready reconnecting" })
	done := make(chan bool)
	go func() {
		next, ok := echoes(t, r)
		if ok {
			next.Close()
		}
		done <- ok
	}()
	e.Do(t, "unpause", "web")
	if !<-done {
		t.Error("a connection that was made meanwhile")
	}
	if answer, err := hello(conn); err != nil || answer != "hello" {
		t.Errorf("the connection from before: %q, %v", answer, err)
	}
}

// echoes opens a connection, and reports whether what it sends comes back.
func echoes(t *testing.T, r route.Dialer) (conn pipe.Conn, ok bool) {
	t.Helper()
	conn, err := r.Dial(t.Context(), target.TCPPort(8080))
	if err != nil {
		return nil, false
	}
	if answer, err := hello(conn); err != nil || answer != "hello" {
		conn.Close()
		return nil, false
	}
	return conn, true
}

// The host's network is reached through a helper, and that it is the host's is told.
func testHelperHostNetwork(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--network", "host"}, "sleep", "1000")
	noHelpers(t, e)
	testenv.NoLeaks(t)
	r, log := openVia(t, helperOpener(t), scheme+"web", target.ViaAgent)
	if log.kinds() != "carried carried ready" || !errors.Is(log.all[1].Err, container.ErrHostNetwork) {
		t.Errorf("events %+v", log.all)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echoOnce(l)
	if answer, err := ask(t.Context(), r, target.TCPPort(testenv.Port(l))); err != nil || answer != "hello" {
		t.Errorf("%q, %v", answer, err)
	}
}

// Whoever may use the engine, and not enter its containers' namespaces, gets there by a helper, and is told why.
func testHelperWithoutPermission(t *testing.T, e *testenv.Engine, _ string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	noHelpers(t, e)
	program := filepath.Join(e.Dir, "porthole") // which the user can read
	if out, err := exec.Command("cp", testenv.Porthole(t), program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	socket := strings.TrimPrefix(e.Host, "unix://")
	t.Cleanup(func() { _ = os.Chmod(socket, 0o660) })
	if err := errors.Join(os.Chmod(e.Dir, 0o711), os.Chmod(program, 0o755), os.Chmod(socket, 0o666)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HELPER_PROGRAM", program)
	testenv.AsUser(t, "^TestHelperAsOrdinaryUser$")
}

// TestHelperAsOrdinaryUser is part of testHelperWithoutPermission.
func TestHelperAsOrdinaryUser(t *testing.T) {
	program := os.Getenv("HELPER_PROGRAM")
	if program == "" {
		return
	}
	testenv.NoLeaks(t)
	o := opener(t)
	o.AgentBinary = program
	f := target.Forward{Target: target.Target{Scheme: target.Docker, Name: "web"}, Via: target.ViaNative}
	var final *route.FinalError
	if _, err := o.Open(t.Context(), f, func(route.Event) {}); !errors.Is(err, netns.ErrPermission) || !errors.As(err, &final) {
		t.Errorf("natively: %v", err)
	}
	r, log := openVia(t, o, "docker://web", target.ViaAuto)
	answers(t, r, "one")
	if log.kinds() != "carried ready" || !errors.Is(log.all[0].Err, netns.ErrPermission) {
		t.Errorf("events %+v", log.all)
	}
}

// Whoever gives up while a helper is made leaves none.
func testHelperGivenUp(t *testing.T, docker *testenv.Engine, _ string) {
	docker.Run(t, []string{"--name", "web"})
	noHelpers(t, docker)
	testenv.NoLeaks(t)
	o := helperOpener(t)
	f := target.Forward{Target: target.Target{Scheme: target.Docker, Name: "web"}, Via: target.ViaAgent}
	if r, err := o.Open(t.Context(), f, func(route.Event) {}); err != nil { // the image is there from now on
		t.Fatal(err)
	} else {
		r.Close()
	}
	for wait := time.Duration(0); wait < 200*time.Millisecond; wait += 8 * time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		if r, err := o.Open(ctx, f, func(route.Event) {}); err == nil {
			r.Close()
		}
		cancel()
	}
}

// halfCloses sends, ends its side, and wants it back.
func halfCloses(t *testing.T, e *testenv.Engine, r route.Dialer) {
	const text = "the answer comes after the end of the question"
	e.Do(t, "exec", "-d", "web", "nc", "-ll", "-p", "9000", "-e", "cat")
	var conn pipe.Conn
	var got []byte
	testenv.Await(t, "nc listens", func() (ok bool) {
		var err error
		if conn, err = r.Dial(t.Context(), target.TCPPort(9000)); err != nil {
			return false
		}
		defer conn.Close()
		if _, err = io.WriteString(conn, text); err != nil {
			return false
		}
		_ = conn.CloseWrite()
		got, err = io.ReadAll(conn)
		return err == nil
	})
	if string(got) != text {
		t.Errorf("got %q", got)
	}
}

// listensIn listens inside, and is reached there.
func listensIn(t *testing.T, e *testenv.Engine, r *route.Result) {
	l, err := r.Bind(t.Context(), target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:9100")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Streams.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "from here")
		conn.Close()
	}()
	if got := e.Do(t, "exec", "web", "nc", "127.0.0.1", "9100"); got != "from here" {
		t.Errorf("inside came %q", got)
	}
}

// reachesSocket connects to a Unix socket in the container's own files, which takes a second helper.
func reachesSocket(t *testing.T, e *testenv.Engine, r route.Dialer) {
	l, err := net.Listen("unix", fmt.Sprintf("/proc/%d/root/run/a.sock", e.PID(t, "web")))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "from the socket")
		conn.Close()
	}()
	conn, err := r.Dial(t.Context(), target.Address{Network: target.Unix, Path: "/run/a.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "from the socket" {
		t.Errorf("got %q, %v", got, err)
	}
	if ids := helperIDs(t, e); len(ids) != 2 {
		t.Errorf("helpers %v, want 2", ids)
	}
}

// Podman's API starts helpers, too.
func testHelperPodman(t *testing.T, podman *testenv.Engine, _ string) {
	podman.Run(t, []string{"--name", "web", "--hostname", "one"})
	noHelpers(t, podman)
	testenv.NoLeaks(t)
	o := helperOpener(t)
	r, _ := openVia(t, o, "podman://web", target.ViaAgent)
	answers(t, r, "one")
	left, err := o.Leftovers(t.Context(), target.Podman, "")
	if err != nil || len(left) != 2 || left[0].Kind != container.LeftHelper || left[0].Stays == "" || left[1].Kind != container.LeftImage || left[1].Stays == "" {
		t.Errorf("left are %+v, %v", left, err)
	}
}
