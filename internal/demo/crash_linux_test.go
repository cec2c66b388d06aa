package demo

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/testenv"
)

// startDemo runs a demo in a process of its own and returns its pod's PID.
func startDemo(t *testing.T, cfg Config) (demo *exec.Cmd, pod int) {
	t.Helper()
	demo = exec.Command("/proc/self/exe", "demo", cfg.StateDir, cfg.Bridge)
	demo.Stderr = os.Stderr
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pod, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return demo, pod
}

func TestKilledDemoTakesItsPodAlong(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	demo, pid := startDemo(t, cfg)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), strconv.Itoa(demo.Process.Pid)) {
		t.Errorf("start beside it: %v", err)
	}
	left := identify(pid)
	if left.Start == 0 {
		t.Fatal("no pod")
	}
	_ = demo.Process.Kill()
	_ = demo.Wait()
	wantGone(t, left)
	if _, err := netlink.LinkByName(cfg.Bridge); err != nil {
		t.Fatalf("the bridge should be left, to be cleared by the next: %v", err)
	}

	pod := startPod(t, cfg)
	if _, err := inside(t, pod, "get", "http://127.0.0.1:8080/"); err != nil {
		t.Error(err)
	}
}

// TestKilledWhileStarting kills a demo at many points of its start.
func TestKilledWhileStarting(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	for wait := time.Duration(0); wait < 250*time.Millisecond; wait += 15 * time.Millisecond {
		demo := exec.Command("/proc/self/exe", "demo", cfg.StateDir, cfg.Bridge)
		if err := demo.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait)
		_ = demo.Process.Kill()
		_ = demo.Wait()
		wantNobodyIn(t, cfg)
	}
	startPod(t, cfg)
}

// wantNobodyIn checks the process that the record names, if it names one.
func wantNobodyIn(t *testing.T, cfg Config) {
	t.Helper()
	l, err := lockState(cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	if r, err := l.read(); err == nil && r.Pod.PID != 0 {
		wantGone(t, r.Pod)
	}
}

// wantGone takes a zombie for gone: it is the machine's init that reaps it.
func wantGone(t *testing.T, p process) {
	t.Helper()
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if identify(p.PID) != p {
		return
	}
	if err := waitGone(fd, p.PID); err != nil {
		t.Fatalf("it outlived its demo: %v", err)
	}
}

// TestLeftoverProcess is for a pod that outlived its demo after all.
func TestLeftoverProcess(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	leftover, innocent := exec.Command("/proc/self/exe", "idle"), exec.Command("/proc/self/exe", "idle")
	for _, cmd := range []*exec.Cmd{leftover, innocent} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	}
	abandon(t, cfg, identify(leftover.Process.Pid))
	ended := make(chan error, 1)
	go func() { ended <- leftover.Wait() }()
	_ = startPod(t, cfg).Close()
	select {
	case <-ended:
	case <-time.After(testenv.Patience):
		t.Fatal("the leftover process was not killed")
	}

	reused := identify(innocent.Process.Pid)
	reused.Start--
	abandon(t, cfg, reused)
	_ = startPod(t, cfg).Close()
	if err := innocent.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("a process that got the PID of a leftover was killed: %v", err)
	}
}

// abandon leaves the record of a demo that was killed.
func abandon(t *testing.T, cfg Config, pod process) {
	t.Helper()
	l, err := lockState(cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	if err := l.write(record{Bridge: cfg.Bridge, Pod: pod}); err != nil {
		t.Fatal(err)
	}
}

// What another user has put where the demo keeps its state names nothing to be killed.
func TestForeignStateDir(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	innocent := exec.Command("/proc/self/exe", "idle")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = innocent.Process.Kill(); _ = innocent.Wait() }()
	for what, change := range map[string]func(dir string) error{
		"owned by another user": func(dir string) error { return os.Chown(dir, 1000, 1000) },
		"open to all":           func(dir string) error { return os.Chmod(dir, 0o777) },
		"a symbolic link":       func(dir string) error { return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir)) },
	} {
		cfg := testConfig(t)
		abandon(t, cfg, identify(innocent.Process.Pid))
		if err := change(cfg.StateDir); err != nil {
			t.Fatal(err)
		}
		if pod, err := Start(t.Context(), cfg); !errors.Is(err, ErrStateDir) {
			t.Errorf("%s: %v, want %v", what, err, ErrStateDir)
			_ = pod.Close()
		}
	}
	if err := innocent.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("a process was killed: %v", err)
	}
}

func TestForeignBridgeStays(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = cfg.Bridge
	foreign := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = netlink.LinkDel(foreign) }()
	if _, err := Start(t.Context(), cfg); !errors.Is(err, ErrBridgeExists) {
		t.Errorf("start: %v", err)
	}
	if _, err := netlink.LinkByName(cfg.Bridge); err != nil {
		t.Errorf("the foreign bridge: %v", err)
	}
}

func TestInitRefusesToRunByHand(t *testing.T) {
	err := Init()
	if err == nil || !strings.Contains(err.Error(), "not for use by hand") {
		t.Errorf("init: %v", err)
	}
}
