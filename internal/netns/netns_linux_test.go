package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestDial(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			l := pod.Listen(t, address)
			conn, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := conn.(*net.TCPConn).RemoteAddr().String(); got != l.Addr().String() {
				t.Errorf("connected to %s, want %s", got, l.Addr())
			}
			// Nothing listens there outside: it was the namespace's own loopback.
			if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
				c.Close()
				t.Error("the port is reachable without entering the namespace")
			}
		})
	}
}

func TestConn(t *testing.T) {
	pod := testenv.NewPod(t)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		l := pod.Listen(t, "127.0.0.1:0")
		c1, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err := l.Accept()
		return c1.(net.Conn), c2, func() { _ = c1.Close(); _ = c2.Close(); _ = l.Close() }, err
	})
}

func TestDialRefused(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	if _, err := pod.NS.Dial(t.Context(), target.TCPPort(9)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial = %v, want ECONNREFUSED", err)
	}
}

func TestDialLoopbackDown(t *testing.T) {
	testenv.Root(t)
	ns := openFresh(t)
	if _, err := ns.Dial(t.Context(), target.TCPPort(80)); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("Dial = %v, want ENETUNREACH", err)
	}
}

// A listener whose queue is full answers nothing, so that only ctx ends the wait.
func TestDialTimeout(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := fullListener(t, pod)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := pod.NS.Dial(ctx, target.TCPPort(port)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v, want DeadlineExceeded", err)
	}
}

// fullListener listens inside the pod with a queue for one connection, and fills that.
func fullListener(t *testing.T, pod *testenv.Pod) (port uint16) {
	t.Helper()
	var fd int
	err := pod.NS.Do(func() (err error) {
		if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		return syscall.Listen(fd, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = uint16(name.(*syscall.SockaddrInet4).Port)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // enough for one that has room
		conn, err := pod.NS.Dial(ctx, target.TCPPort(port))
		cancel()
		if err != nil {
			return port
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func TestDialAtOnce(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			conn, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		})
	}
	wg.Wait()
}

func TestOpenErrors(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	regular := filepath.Join(t.TempDir(), "regular")
	if err := os.WriteFile(regular, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		open func() (*netns.Namespace, error)
		want error
	}{
		"no such process":   {func() (*netns.Namespace, error) { return netns.OpenPID(1<<22 + 1) }, netns.ErrNoProcess},
		"zombie":            {func() (*netns.Namespace, error) { return netns.OpenPID(zombie(t)) }, netns.ErrNoProcess},
		"no such path":      {func() (*netns.Namespace, error) { return netns.OpenPath("/run/netns/nowhere") }, netns.ErrNotExist},
		"regular file":      {func() (*netns.Namespace, error) { return netns.OpenPath(regular) }, netns.ErrNotNamespace},
		"fifo":              {func() (*netns.Namespace, error) { return netns.OpenPath(fifo) }, netns.ErrNotNamespace},
		"directory":         {func() (*netns.Namespace, error) { return netns.OpenPath("/") }, netns.ErrNotNamespace},
		"other namespace":   {func() (*netns.Namespace, error) { return netns.OpenPath("/proc/self/ns/uts") }, netns.ErrNotNamespace},
		"path below a file": {func() (*netns.Namespace, error) { return netns.OpenPath(regular + "/x") }, netns.ErrNotExist},
		"NUL bytes":         {func() (*netns.Namespace, error) { return netns.OpenPath("/" + string(make([]byte, 5000))) }, syscall.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			ns, err := test.open()
			if err == nil {
				err = ns.Check()
				_ = ns.Close()
			}
			if !errors.Is(err, test.want) {
				t.Errorf("opened %v, %v, want %v", ns, err, test.want)
			}
		})
	}
}

// zombie is the number of a process that has exited and is not reaped.
func zombie(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	// WNOWAIT leaves it a zombie.
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal("waitid:", err)
	}
	return cmd.Process.Pid
}

func TestProcessExits(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	gone := make(chan error, 1)
	go func() { gone <- pod.NS.Wait(t.Context()) }()
	select {
	case err := <-gone:
		t.Fatal("Wait returned before the exit:", err)
	case <-time.After(100 * time.Millisecond):
	}
	pod.Kill()
	select {
	case err := <-gone:
		if !errors.Is(err, netns.ErrExited) {
			t.Errorf("Wait = %v, want ErrExited", err)
		}
	case <-time.After(testenv.Patience):
		t.Fatal("Wait does not see the exit")
	}
	if _, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l))); !errors.Is(err, netns.ErrExited) {
		t.Errorf("Dial = %v, want ErrExited", err)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := pod.NS.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, want DeadlineExceeded", err)
	}
}

// A namespace that is made again under its old name is found.
func TestPathIsFollowed(t *testing.T) {
	testenv.NoLeaks(t)
	first, second := testenv.NewPod(t), testenv.NewPod(t)
	link := filepath.Join(t.TempDir(), "blue")
	point := func(p *testenv.Pod) {
		_ = os.Remove(link)
		if err := os.Symlink(fmt.Sprintf("/proc/%d/ns/net", p.PID), link); err != nil {
			t.Fatal(err)
		}
	}
	point(first)
	ns, err := netns.OpenPath(link)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	l := second.Listen(t, "127.0.0.1:0")
	if _, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l))); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial = %v, want ECONNREFUSED", err)
	}
	point(second)
	conn, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = os.Remove(link)
	if _, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l))); !errors.Is(err, netns.ErrNotExist) {
		t.Errorf("Dial = %v, want ErrNotExist", err)
	}
}

// openFresh opens a namespace whose loopback is down.
func openFresh(t *testing.T) *netns.Namespace {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ns, err := netns.OpenPID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
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
			go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
		}
	}()
	for b.Loop() {
		c, err := pod.NS.Dial(b.Context(), target.TCPPort(testenv.Port(l)))
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// What is forbidden is not entered, whichever way it is found, also if it became so
// after the opening.
func TestForbid(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	path := fmt.Sprintf("/proc/%d/ns/net", pod.PID)
	inside, err := netns.IDOf(path)
	if err != nil {
		t.Fatal(err)
	}
	own, err := netns.IDOf("/proc/self/ns/net")
	if err != nil || own == inside {
		t.Fatalf("own namespace is %+v, the pod's %+v, %v", own, inside, err)
	}
	byPath, err := netns.OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer byPath.Close()
	byProcess, err := netns.OpenPID(pod.PID)
	if err != nil {
		t.Fatal(err)
	}
	defer byProcess.Close()
	for _, ns := range []*netns.Namespace{byPath, byProcess} {
		ns.Forbid(own)
		if err := ns.Do(func() error { return nil }); err != nil {
			t.Error("a namespace that is not forbidden:", err)
		}
		ns.Forbid(own, inside)
		if err := ns.Do(func() error { t.Error("entered"); return nil }); !errors.Is(err, netns.ErrForbidden) {
			t.Errorf("Do = %v, want ErrForbidden", err)
		}
		if now, err := netns.IDOf("/proc/self/ns/net"); now != own || err != nil {
			t.Errorf("came back to %+v, %v, from %+v", now, err, own)
		}
		if _, err := ns.Dial(t.Context(), target.TCPPort(80)); !errors.Is(err, netns.ErrForbidden) {
			t.Errorf("Dial = %v, want ErrForbidden", err)
		}
	}
}

// A server that resets what it accepts, at once, is told as a reset.
func TestDialReset(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	var resetting sync.WaitGroup
	defer resetting.Wait()
	defer l.Close()
	for range 8 {
		resetting.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_ = pipe.Reset(conn.(pipe.Conn))
			}
		})
	}
	var dialing sync.WaitGroup
	for range 16 {
		dialing.Go(func() {
			for range 500 {
				conn, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
				if err != nil {
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Error(err)
					}
					continue
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Error("read:", err)
				}
				conn.Close()
			}
		})
	}
	dialing.Wait()
}
