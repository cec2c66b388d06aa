package node

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

func TestSocketPath(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:///run/a.sock": "/run/a.sock",
		"/run/a.sock":        "/run/a.sock",
	} {
		if path, err := socketPath(endpoint); path != want || err != nil {
			t.Errorf("socketPath(%q) = %q, %v", endpoint, path, err)
		}
	}
	for _, endpoint := range []string{"", "unix://", "run/a.sock", "unix://run/a.sock", "tcp://127.0.0.1:1", "npipe:////./pipe/x", "unix:///" + strings.Repeat("x", 107)} {
		if path, err := socketPath(endpoint); !errors.Is(err, ErrEndpoint) {
			t.Errorf("socketPath(%q) = %q, %v, want ErrEndpoint", endpoint, path, err)
		}
	}
}

func TestListenSocket(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(t.TempDir(), "run", "porthole")
	path := filepath.Join(dir, "cri.sock")
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error("closed twice:", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

func TestListenSocketRefuses(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	foreign := filepath.Join(dir, "foreign")
	l, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours := filepath.Join(dir, "ours")
	s, err := listenSocket(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	regular := filepath.Join(dir, "regular")
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(regular, []byte("keep"), 0o600), os.Symlink(regular, link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		foreign: ErrInUse, ours: ErrInUse, regular: ErrNotSocket, link: ErrNotSocket, dir: ErrNotSocket,
		filepath.Join(regular, "below"): ErrFolder,
	} {
		if _, err := listenSocket(path); !errors.Is(err, want) {
			t.Errorf("listenSocket(%s) = %v, want %v", path, err, want)
		}
		if _, err := os.Lstat(path); err != nil && !errors.Is(want, ErrFolder) {
			t.Errorf("%s is gone: %v", path, err)
		}
		if _, err := os.Lstat(path + ".lock"); err == nil && path != ours {
			t.Errorf("%s.lock stays", path)
		}
	}
}

// A socket whose process was killed is replaced.
func TestListenSocketStale(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "cri.sock")
	leaveStale(t, path)
	s, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// leaveStale makes a socket, and a lock, of a process that is gone.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Of many that start at once beside a stale socket, one wins, and keeps it.
func TestListenSocketAtOnce(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "cri.sock")
	leaveStale(t, path)
	var won atomic.Pointer[socket]
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s, err := listenSocket(path)
			switch {
			case errors.Is(err, ErrInUse):
			case err != nil:
				t.Error(err)
			case !won.CompareAndSwap(nil, s):
				t.Error("two listen")
			}
		})
	}
	wg.Wait()
	if won.Load() == nil {
		t.Fatal("nobody listens")
	}
	defer won.Load().Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal("the winner's socket:", err)
	}
	_ = c.Close()
}

func TestNotify(t *testing.T) {
	testenv.NoLeaks(t)
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := Notify(path, NotifyReady); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := l.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if err := Notify("", NotifyReady); err != nil {
		t.Error("without a manager:", err)
	}
	for _, bad := range []string{"nowhere", filepath.Join(t.TempDir(), "nobody")} {
		if err := Notify(bad, NotifyReady); err == nil {
			t.Errorf("Notify(%q) succeeds", bad)
		}
	}
}

// childless fails the test if this process has children left that name matches.
func childless(t *testing.T, name string) {
	t.Helper()
	out, _ := exec.Command("pgrep", "-P", itoa(os.Getpid()), "-x", name).Output()
	if len(out) > 0 {
		t.Errorf("%s runs on: %s", name, out)
	}
}
