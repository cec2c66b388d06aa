package container_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// A container is reached by its name, its ID and the beginning of that.
func testNames(t *testing.T, e *testenv.Engine, scheme string) {
	id := e.Run(t, []string{"--name", "web", "--hostname", "one"})
	testenv.NoLeaks(t)
	o := opener(t)
	for _, name := range []string{"web", id, id[:12], id[:1]} {
		r, log := open(t, o, scheme+name)
		answers(t, r, "one")
		if kinds := log.kinds(); kinds != "ready" {
			t.Errorf("%s: events %s", name, kinds)
		}
	}
	var missing *container.NotFoundError
	if _, err := tryOpen(t, o, scheme+"wep", nil); !errors.As(err, &missing) || !slices.Equal(missing.Similar, []string{"web"}) {
		t.Errorf("a name that is mistyped: %v", err)
	}
	if _, err := tryOpen(t, o, scheme+"shop/web", nil); !errors.Is(err, container.ErrNoContainer) {
		t.Errorf("no such service: %v", err)
	}
	ambiguous(t, e, o, scheme)
}

// ambiguous makes containers until the IDs of two begin with the same digit: of 17 the last, of fewer most likely.
func ambiguous(t *testing.T, e *testenv.Engine, o *container.Opener, scheme string) {
	t.Helper()
	byDigit := map[string]int{}
	for range 17 {
		id := e.Do(t, "create", testenv.Image, "sleep", "1000")
		if byDigit[id[:1]]++; byDigit[id[:1]] == 1 {
			continue
		}
		_, err := tryOpen(t, o, scheme+id[:1], nil)
		var several *container.AmbiguousError
		if !errors.As(err, &several) || len(several.Matches) < 2 || !strings.Contains(err.Error(), id[:12]) {
			t.Errorf("the beginning of two IDs: %v", err)
		}
		return
	}
}

// The listener of a session stays when a container restarts: connections wait until it is there again.
func testRestart(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	testenv.NoLeaks(t)
	r, log := open(t, opener(t), scheme+"web")
	e.Do(t, "restart", "web")
	answers(t, r, "one")
	testenv.Await(t, "the route tells of the restart", func() bool { return log.kinds() == "ready reconnecting ready" })
}

// A container is made again under its name during 100 connections, all of which arrive.
func testReplaced(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	testenv.NoLeaks(t)
	r, _ := open(t, opener(t), scheme+"web")
	answers(t, r, "one")
	var work sync.WaitGroup
	defer work.Wait()
	for range 50 { // each of which may be cut, and may not fail to connect
		work.Go(func() {
			conn, err := r.Dial(t.Context(), target.TCPPort(8080))
			if err != nil {
				t.Errorf("while the container goes: %v", err)
				return
			}
			conn.Close()
		})
	}
	e.Do(t, "rm", "-f", "web")
	for range 50 {
		work.Go(func() { answers(t, r, "two") })
	}
	e.Run(t, []string{"--name", "web", "--hostname", "two"})
}

// A container that was named by its ID is gone for good when it is removed, and so is not another one of its name.
func testRemoved(t *testing.T, e *testenv.Engine, scheme string) {
	id := e.Run(t, []string{"--name", "web", "--hostname", "one"})
	testenv.NoLeaks(t)
	o := opener(t)
	whole, _ := open(t, o, scheme+id)
	part, _ := open(t, o, scheme+id[:12])
	e.Do(t, "restart", "web")
	answers(t, whole, "one")
	answers(t, part, "one")
	e.Do(t, "rm", "-f", "web")
	e.Run(t, []string{"--name", "web", "--hostname", "two"})
	for _, r := range []route.Route{whole, part} {
		if err := r.Wait(t.Context()); !errors.Is(err, container.ErrRemoved) {
			t.Errorf("it ends with %v", err)
		}
		if _, err := r.Dial(t.Context(), target.TCPPort(8080)); !errors.Is(err, container.ErrRemoved) {
			t.Errorf("a connection afterwards: %v", err)
		}
	}
}

// Connections wait for a container that is paused.
func testPaused(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	if out, err := e.Command("pause", "web").CombinedOutput(); err != nil {
		testenv.Lacking(t, fmt.Sprintf("cgroups that can freeze: %s", out))
	}
	o := opener(t)
	var state *container.StateError
	if _, err := tryOpen(t, o, scheme+"web", nil); !errors.As(err, &state) || state.State != container.Paused {
		t.Errorf("a container that is paused: %v", err)
	}
	e.Do(t, "unpause", "web")
	r, log := open(t, o, scheme+"web")
	e.Do(t, "pause", "web")
	testenv.Await(t, "the route tells of the pause", func() bool { return log.kinds() == "ready reconnecting" })
	done := make(chan struct{})
	go func() { defer close(done); answers(t, r, "one") }()
	e.Do(t, "unpause", "web")
	<-done
}

// The containers of a service take connections in turn.
func testService(t *testing.T, e *testenv.Engine, scheme string) {
	run := func(name string, command ...string) {
		e.Run(t, []string{"--name", name, "--hostname", name, "--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web"}, command...)
	}
	run("shop-web-1")
	run("shop-web-2")
	e.Run(t, []string{"--name", "other", "--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=db"})
	testenv.NoLeaks(t)
	r, log := open(t, opener(t), scheme+"shop/web")
	for range 2 {
		answers(t, r, "shop-web-1")
		answers(t, r, "shop-web-2")
	}
	e.Do(t, "rm", "-f", "shop-web-1")
	testenv.Await(t, "the other one takes all connections", func() bool { return only(t, r, "shop-web-2") })
	run("shop-web-3")
	testenv.Await(t, "the new one takes connections too", func() bool { return !only(t, r, "shop-web-2") })
	late := strings.Replace(testenv.Web[2], "exec", "sleep 1 && exec", 1)
	run("shop-web-4", "sh", "-c", late)
	testenv.Await(t, "one that listens late takes connections too", func() bool {
		who, err := whoAnswers(t.Context(), r)
		if err != nil {
			t.Fatalf("while one does not listen yet: %v", err)
		}
		return who == "shop-web-4"
	})
	if kinds := log.kinds(); kinds != "ready" {
		t.Errorf("events %s, although one was always there", kinds)
	}
}

// only reports whether a container of that host name answers twice.
func only(t *testing.T, r route.Dialer, name string) bool {
	for range 2 {
		if who, err := whoAnswers(t.Context(), r); err != nil || who != name {
			return false
		}
	}
	return true
}

// An engine that is killed takes nothing with it: connections go on, and when it is back its events are followed.
func testKilledEngine(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	o := opener(t)
	r, _ := open(t, o, scheme+"web")
	e.Kill(t)
	answers(t, r, "one")
	if _, err := tryOpen(t, o, scheme+"other", nil); !errors.Is(err, container.ErrNoEngine) {
		t.Errorf("without an engine: %v", err)
	}
	e.Start(t)
	e.Do(t, "rm", "-f", "web")
	e.Run(t, []string{"--name", "web", "--hostname", "two"})
	answers(t, r, "two")
}

// What is listened on inside a container leads to this end, over TCP and UDP, and is closed when the container ends.
func testListening(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web"})
	testenv.NoLeaks(t)
	r, _ := open(t, opener(t), scheme+"web")
	at := netip.MustParseAddrPort("127.0.0.1:9000")
	l, err := r.Bind(t.Context(), target.Endpoint{AddrPort: at})
	if err != nil {
		t.Fatal(err)
	}
	datagrams, err := r.Bind(t.Context(), target.Endpoint{AddrPort: at, Network: target.UDP})
	if err != nil {
		t.Fatal(err)
	}
	go echoOnce(l.Streams)
	go testenv.EchoUDP(datagrams.Packets)
	for _, network := range []target.Network{target.TCP, target.UDP} {
		if answer, err := ask(t.Context(), r, target.Address{Network: network, Port: 9000}); err != nil || answer != "hello" {
			t.Errorf("over %s: %q, %v", network, answer, err)
		}
	}
	client := dialUDP(t, r)
	e.Do(t, "restart", "web")
	if _, err := l.Streams.Accept(); err == nil {
		t.Error("somebody has connected in a container that has ended")
	}
	endsWithContainer(t, client)
	again, err := r.Bind(t.Context(), target.Endpoint{AddrPort: at})
	if err != nil {
		t.Fatal(err)
	}
	go echoOnce(again.Streams)
	if answer, err := ask(t.Context(), r, target.TCPPort(9000)); err != nil || answer != "hello" {
		t.Errorf("after the restart: %q, %v", answer, err)
	}
	_ = again.Close()
}

// dialUDP connects to a UDP port of a container where nobody has to listen, until the test ends.
func dialUDP(t *testing.T, r *route.Result) pipe.Conn {
	t.Helper()
	conn, err := r.Dial(t.Context(), target.Address{Network: target.UDP, Port: 9000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// endsWithContainer reads from a connection of UDP, whose container has ended: the next one is not reached by it.
func endsWithContainer(t *testing.T, conn pipe.Conn) {
	t.Helper()
	defer time.AfterFunc(testenv.Patience, func() { _ = conn.Close() }).Stop()
	buf := make([]byte, 100)
	_, err := conn.Read(buf)
	for err == nil { // an answer that was on its way
		_, err = conn.Read(buf)
	}
	if !errors.Is(err, container.ErrEnded) {
		t.Errorf("a connection of UDP whose container has ended ends with %v", err)
	}
}

// echoOnce sends one connection's bytes back.
func echoOnce(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.Copy(struct{ io.Writer }{conn}, conn) // without a pipe of splice(2), which would stay until the next collection of garbage
}

// ask sends hello, and returns the first answer.
func ask(ctx context.Context, r route.Dialer, to target.Address) (string, error) {
	conn, err := r.Dial(ctx, to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return hello(conn)
}

func hello(conn pipe.Conn) (string, error) {
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", err
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	return string(answer[:n]), err
}

// A Unix socket is found by its path inside the container.
func testUnixSocket(t *testing.T, e *testenv.Engine, scheme string) {
	e.Run(t, []string{"--name", "web"})
	l, err := net.Listen("unix", fmt.Sprintf("/proc/%d/root/tmp/x.sock", e.PID(t, "web")))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(l.Addr().String(), 0o666); err != nil {
		t.Fatal(err)
	}
	go echoOnce(l)
	testenv.NoLeaks(t)
	r, _ := open(t, opener(t), scheme+"web")
	if answer, err := ask(t.Context(), r, target.Address{Network: target.Unix, Path: "/tmp/x.sock"}); err != nil || answer != "hello" {
		t.Errorf("%q, %v", answer, err)
	}
}

// What does not run is told by its state.
func testStates(t *testing.T, e *testenv.Engine, scheme string) {
	e.Do(t, "create", "--name", "new", testenv.Image, "sleep", "1000")
	e.Run(t, []string{"--name", "old"}, "sleep", "1000")
	e.Do(t, "kill", "old")
	testenv.Await(t, "it has ended", func() bool { return e.Do(t, "inspect", "-f", "{{.State.Status}}", "old") == "exited" })
	testenv.NoLeaks(t)
	o := opener(t)
	for name, want := range map[string]container.State{"new": container.Created, "old": container.Exited} {
		_, err := tryOpen(t, o, scheme+name, nil)
		var state *container.StateError
		if !errors.Is(err, container.ErrNotRunning) || !errors.As(err, &state) || state.State != want || state.Name != name {
			t.Errorf("%s: %v, want that it is %s", name, err, want)
		}
	}
}

// A container without a network of its own is told of, and reached.
func testHostNetwork(t *testing.T, e *testenv.Engine, scheme string) {
	port := testenv.FreePort(t)
	e.Run(t, []string{"--name", "web", "--network", "host"}, "sh", "-c", fmt.Sprintf("echo host > /id && exec httpd -f -p 127.0.0.1:%d -h /", port))
	testenv.NoLeaks(t)
	r, log := open(t, opener(t), scheme+"web")
	if kinds := log.kinds(); kinds != "carried ready" || !errors.Is(log.all[0].Err, container.ErrHostNetwork) {
		t.Errorf("events %s", kinds)
	}
	testenv.Await(t, "it answers", func() bool {
		conn, err := r.Dial(t.Context(), target.TCPPort(port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// A process that has ended before its engine knows is not taken for one of another machine.
func TestEndedUnnoticed(t *testing.T) {
	e := testenv.NewDocker(t)
	t.Setenv("DOCKER_HOST", e.Host)
	e.Run(t, []string{"--name", "web", "--hostname", "one"})
	text, err := os.ReadFile(e.Dir + "/exec/containerd/containerd.pid")
	if err != nil {
		t.Fatal(err)
	}
	containerd, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	o := &container.Opener{MaxWait: 3 * time.Second} // several looks
	t.Cleanup(o.Close)
	r, log := open(t, o, "docker://web")
	// The engine hears of ends by its containerd.
	if err := syscall.Kill(containerd, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := sync.OnceFunc(func() { _ = syscall.Kill(containerd, syscall.SIGCONT) })
	defer goOn()
	if err := syscall.Kill(e.PID(t, "web"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testenv.Await(t, "the route tells of the end", func() bool { return log.kinds() == "ready reconnecting" })
	if _, err := r.Dial(t.Context(), target.TCPPort(8080)); !errors.Is(err, container.ErrEnded) {
		t.Errorf("a connection meanwhile: %v, want %v", err, container.ErrEnded)
	}
	if container.TriedHelpers(o) {
		t.Error("a helper was asked for, as for a container of another machine")
	}
	goOn()
	e.Kill(t) // it may have missed the end for good
	e.Start(t)
	e.Do(t, "start", "web")
	testenv.Await(t, "it answers again", func() bool {
		who, err := whoAnswers(t.Context(), r)
		return err == nil && who == "one"
	})
	if kinds := log.kinds(); kinds != "ready reconnecting ready" {
		t.Errorf("events: %s", kinds)
	}
}
