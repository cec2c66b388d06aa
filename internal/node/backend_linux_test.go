package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// backends are both ways into pods.
var backends = map[string]backend{"native": &native{}, "socat": socat{log: quiet}}

// sandboxOf is a sandbox found by its path, as containerd gives it.
func sandboxOf(pod *testenv.Pod) *sandbox {
	ref, _ := netnsOfProcess("s1", pod.PID)
	ref.path = fmt.Sprintf("/proc/%d/ns/net", pod.PID)
	return &sandbox{id: "s1", namespace: "default", pod: "kuard", netns: ref}
}

// answer accepts one connection and passes it to serve.
func answer(t *testing.T, pod *testenv.Pod, serve func(*net.TCPConn)) (port uint16) {
	t.Helper()
	l := pod.Listen(t, "127.0.0.1:0")
	go func() {
		if c, err := l.Accept(); err == nil {
			serve(c.(*net.TCPConn))
			_ = c.Close()
		}
	}()
	return testenv.Port(l)
}

func TestBackends(t *testing.T) {
	for name, b := range backends {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			port := answer(t, pod, func(c *net.TCPConn) {
				request := make([]byte, 5)
				_, _ = io.ReadFull(c, request)
				_, _ = fmt.Fprintf(c, "answer to %s", request)
			})
			conn, err := b.dial(t.Context(), sandboxOf(pod), target.TCPPort(port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); string(got) != "answer to hello" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// The end of what the client sends arrives, as nothing else. What the pod says more
// than half a second later is lost to socat, so only its arrival is looked at.
func TestBackendsHalfClose(t *testing.T) {
	for name, b := range backends {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			got := make(chan string, 1)
			port := answer(t, pod, func(c *net.TCPConn) {
				request, err := io.ReadAll(c)
				got <- fmt.Sprintf("%s, %v", request, err)
			})
			conn, err := b.dial(t.Context(), sandboxOf(pod), target.TCPPort(port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "hello")
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-got:
				if got != "hello, <nil>" {
					t.Errorf("the pod reads %s", got)
				}
			case <-time.After(waitTime):
				t.Error("no end of file in the pod")
			}
		})
	}
}

func TestBackendsRefused(t *testing.T) {
	for name, b := range backends {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			_, err := b.dial(t.Context(), sandboxOf(testenv.NewPod(t)), target.TCPPort(9))
			if !errors.Is(err, syscall.ECONNREFUSED) || resultOf(err) != resultRefused ||
				!strings.Contains(strings.ToLower(err.Error()), "connection refused") {
				t.Errorf("got %v, want ECONNREFUSED", err)
			}
		})
	}
}

// A connection that meets its own socket, since the port dialed is among the two
// that the kernel chooses for the near end, counts as refused.
func TestBackendsMeetThemselves(t *testing.T) {
	for name, b := range backends {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			err := pod.NS.Do(func() error {
				return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40001"), 0)
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 12 {
				if conn, err := b.dial(t.Context(), sandboxOf(pod), target.TCPPort(40000)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("dial = %v, %v, want ECONNREFUSED", conn, err)
				}
			}
		})
	}
}

func TestBackendsNamespaceGone(t *testing.T) {
	for name, b := range backends {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			byPath := sandboxOf(pod)
			byNumber := &sandbox{}
			byNumber.netns, _ = netnsOfProcess("s1", pod.PID)
			pod.Kill()
			for _, s := range []*sandbox{byPath, byNumber} {
				_, err := (&sandboxDialer{sandbox: s, backend: b}).Dial(t.Context(), target.TCPPort(80))
				if !errors.Is(err, tunnel.ErrNoSandbox) || resultOf(err) != resultNoSandbox {
					t.Errorf("Dial(%+v) = %v, want ErrNoSandbox", s.netns, err)
				}
			}
		})
	}
}

// A file that is left of a namespace is not one.
func TestBackendsNamespaceUnmounted(t *testing.T) {
	testenv.Root(t)
	path := filepath.Join(t.TempDir(), "cni-1")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, b := range backends {
		if _, err := b.dial(t.Context(), &sandbox{netns: netnsRef{path: path}}, target.TCPPort(80)); !errors.Is(err, tunnel.ErrNoSandbox) {
			t.Errorf("%s: %v, want ErrNoSandbox", name, err)
		}
	}
}

// Those who come at once share what they enter through, and nothing of it stays.
func TestNativeBurst(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := testenv.Port(pod.Listen(t, "127.0.0.1:0"))
	n := new(native)
	var burst sync.WaitGroup
	for range 200 {
		burst.Go(func() {
			conn, err := n.dial(t.Context(), sandboxOf(pod), target.TCPPort(port))
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		})
	}
	burst.Wait()
	if left := len(n.shared); left > 0 {
		t.Errorf("%d namespaces are still open", left)
	}
}

// The pod's reset is not an end. socat makes one of it, and exits with 0.
func TestNativeReset(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := answer(t, pod, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetLinger(0)
	})
	conn, err := new(native).dial(t.Context(), sandboxOf(pod), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); resultOf(err) != resultReset {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestRouteDenied(t *testing.T) {
	deny, _ := target.ParsePortSet("22")
	r := &sandboxDialer{sandbox: &sandbox{}, policy: Policy{Deny: deny}}
	_, err := r.Dial(t.Context(), target.TCPPort(22))
	if !errors.Is(err, tunnel.ErrDenied) || resultOf(err) != resultDenied {
		t.Errorf("Dial = %v, want ErrDenied", err)
	}
}

func TestSocatIsMissing(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	dial := func() error {
		_, err := socat{log: quiet}.dial(t.Context(), sandboxOf(pod), target.TCPPort(80))
		return err
	}
	if err := dial(); err == nil || err.Error() != "unable to do port forwarding: socat not found." {
		t.Errorf("without socat: %v", err)
	}
	if err := os.Symlink("/usr/bin/socat", filepath.Join(dir, "socat")); err != nil {
		t.Fatal(err)
	}
	if err := dial(); err == nil || err.Error() != "unable to do port forwarding: nsenter not found." {
		t.Errorf("without nsenter: %v", err)
	}
}

// The command line is the one that people look for in their logs.
func TestSocatCommand(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := answer(t, pod, func(*net.TCPConn) {})
	var log strings.Builder
	b := socat{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	conn, err := b.dial(t.Context(), sandboxOf(pod), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	want := fmt.Sprintf("executing port forwarding command: /usr/bin/nsenter -t %d -n /usr/bin/socat - TCP4:localhost:%d", pod.PID, port)
	if !strings.Contains(log.String(), want) {
		t.Errorf("log %q, want %q", log.String(), want)
	}
	argv, err := socatCommand(netnsRef{path: "/run/netns/blue"}, 80)
	if got := strings.Join(argv, " "); err != nil || got != "/usr/bin/nsenter --net=/run/netns/blue /usr/bin/socat - TCP4:localhost:80" {
		t.Errorf("without a process: %s, %v", got, err)
	}
}

// When the client goes, the programs go, whatever they wait for.
func TestSocatIsKilled(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := answer(t, pod, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	for _, end := range []func(pipe.Conn) error{pipe.Conn.Close, pipe.Reset} {
		c, err := socat{log: quiet}.dial(t.Context(), sandboxOf(pod), target.TCPPort(port))
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
		time.Sleep(50 * time.Millisecond)
		_ = end(c)
		select {
		case err := <-read:
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("Read = %v after the end", err)
			}
		case <-time.After(waitTime):
			t.Fatal("Read goes on after the end")
		}
		<-c.(*socatConn).over
	}
	childless(t, "socat")
}

// What programs say is kept within bounds, and is the error's text.
func TestSocatStderr(t *testing.T) {
	testenv.NoLeaks(t)
	c, err := startSocat([]string{"/bin/sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	if err == nil || len(err.Error()) > maxStderr+100 || !strings.HasPrefix(err.Error(), "exit status 3: x") || !strings.HasSuffix(err.Error(), "xthe end") {
		t.Errorf("Read = %.40v...", err)
	}
	if resultOf(err) != resultFailed {
		t.Errorf("result %s", resultOf(err))
	}
}

// A program that is called socat and cannot be looked into is taken for one that works.
func TestSocatIsAScript(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	dir := t.TempDir()
	script := "#!/bin/sh\nread line; echo got $line\n"
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "socat"), []byte(script), 0o700),
		os.Symlink("/usr/bin/nsenter", filepath.Join(dir, "nsenter"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	conn, err := socat{log: quiet}.dial(t.Context(), sandboxOf(pod), target.TCPPort(80))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello\n")
	if got, err := io.ReadAll(conn); string(got) != "got hello\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSocatCannotStart(t *testing.T) {
	testenv.NoLeaks(t)
	if _, err := startSocat([]string{"/nowhere"}); err == nil || !strings.HasPrefix(err.Error(), "unable to do port forwarding: ") {
		t.Errorf("got %v", err)
	}
}

func TestResultOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, resultOK},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), resultTimeout},
		{deniedError("no"), resultDenied},
		{fmt.Errorf("x: %w", tunnel.ErrTunnel), resultLost},
		{tunnel.ErrReset, resultReset},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, resultReset},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.EPIPE}, resultReset},
		{&net.OpError{Op: "close", Net: "tcp", Err: syscall.ENOTCONN}, resultReset},
		{net.ErrClosed, resultLost},
		{errors.New("x"), resultFailed},
	} {
		if got := resultOf(test.err); got != test.want {
			t.Errorf("resultOf(%v) = %s, want %s", test.err, got, test.want)
		}
	}
}

func BenchmarkDial(b *testing.B) {
	pod := testenv.NewPod(b)
	l := pod.Listen(b, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = c.Read(make([]byte, 1)); _ = c.Close() }()
		}
	}()
	s := sandboxOf(pod)
	for name, backend := range backends {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c, err := backend.dial(b.Context(), s, target.TCPPort(testenv.Port(l)))
				if err != nil {
					b.Fatal(err)
				}
				_ = c.Close()
			}
		})
	}
}
