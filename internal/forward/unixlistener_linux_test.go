package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// listenAt listens on a Unix socket for a port of this host.
func listenAt(t *testing.T, path string, remote uint16) ([]*route.Listener, error) {
	return forward.Listen(t.Context(), []string{"127.0.0.1"}, []target.Port{{LocalPath: path, Remote: remote}})
}

// A local socket carries connections like a port does.
func TestLocalUnixSocket(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "x.sock")
	late := serve(t, func(c *net.TCPConn) { // answers after the end of file
		request, _ := io.ReadAll(c)
		_, _ = c.Write(request)
	})
	listeners, err := listenAt(t, path, late)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&forward.Forwarder{Dialer: loopback{}}).Run(ctx, listeners) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); string(answer) != "hello" || err != nil {
		t.Errorf("answer %q, %v", answer, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// nettest holds that a forwarded Unix socket is a net.Conn like any other.
func TestLocalUnixSocketConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		path := filepath.Join(t.TempDir(), "x.sock")
		listeners, err := listenAt(t, path, testenv.Port(l))
		if err != nil {
			return nil, nil, nil, err
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- (&forward.Forwarder{Dialer: loopback{}}).Run(ctx, listeners) }()
		near, err := net.Dial("unix", path)
		if err != nil {
			cancel()
			return nil, nil, nil, err
		}
		far, err := l.Accept()
		return near, far, func() { near.Close(); far.Close(); l.Close(); cancel(); <-done }, err
	})
}

// What is at the path already is replaced only if it is the socket of a dead process.
func TestUnixPathTaken(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "x.sock")
	first, err := listenAt(t, path, 1)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := listenAt(t, path, 1); !errors.Is(err, syscall.EADDRINUSE) {
		forward.CloseAll(second)
		t.Errorf("beside a living one: %v", err)
	}
	// Another program's socket has come to the path of the first one, which leaves it alone at its end.
	if err := os.Rename(path, filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	forward.CloseAll(first)
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the other program's socket is gone: %v", err)
	}
	replaced, err := listenAt(t, path, 1)
	if err != nil {
		t.Fatalf("in place of a dead one: %v", err)
	}
	forward.CloseAll(replaced)

	for name, make := range map[string]func(string) error{
		"file":      func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":      func(p string) error { return os.Symlink("nowhere", p) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		at := filepath.Join(dir, name)
		if err := make(at); err != nil {
			t.Fatal(err)
		}
		if ls, err := listenAt(t, at, 1); !errors.Is(err, forward.ErrNotSocket) {
			forward.CloseAll(ls)
			t.Errorf("in place of a %s: %v", name, err)
		}
		if _, err := os.Lstat(at); err != nil {
			t.Errorf("the %s is gone: %v", name, err)
		}
	}
}

// Of many that make a socket at one path at once, where a dead one was, one succeeds.
func TestUnixPathRace(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "x.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	var wins atomic.Int32
	var work, tried sync.WaitGroup
	tried.Add(10)
	for range 10 {
		work.Go(func() {
			ls, err := listenAt(t, path, 1)
			tried.Done()
			tried.Wait()
			switch {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, syscall.EADDRINUSE):
				t.Error(err)
			}
			forward.CloseAll(ls)
		})
	}
	work.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d listen at one path", wins.Load())
	}
}

// Somebody who keeps a directory locked does not keep a socket from being made in it.
func TestUnixDirectoryLocked(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		ls, err := listenAt(t, filepath.Join(dir, "x.sock"), 1)
		forward.CloseAll(ls)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testenv.Patience):
		t.Fatal("it waits for the lock")
	}
}
