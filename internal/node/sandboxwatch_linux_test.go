package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/testenv"
)

func wantGone(t *testing.T, there interface{ Done() <-chan struct{} }) {
	t.Helper()
	select {
	case <-there.Done():
	case <-time.After(waitTime):
		t.Error("nobody is told that the sandbox is gone")
	}
}

// A sandbox is there as long as its namespace can be entered by what is known of it.
func TestWatch(t *testing.T) {
	testenv.NoLeaks(t)
	pod, path := testenv.NewPod(t), filepath.Join(t.TempDir(), "cni-1")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	process := "/proc/" + itoa(pod.PID) + "/ns/net"
	if err := unix.Mount(process, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmount := func() { _ = unix.Unmount(path, unix.MNT_DETACH) }
	t.Cleanup(unmount)
	numbered, err := netnsOfProcess("s1", pod.PID)
	if err != nil {
		t.Fatal(err)
	}
	both := numbered
	both.path = path
	var w sandboxWatch
	byNumber, leaveNumber := w.add(numbered)
	byBoth, leaveBoth := w.add(both)
	again, leaveAgain := w.add(both)
	defer leaveNumber()
	defer leaveBoth()
	leaveAgain()
	if numbered.gone() || both.gone() || (netnsRef{path: path}).gone() || (netnsRef{path: nodeNamespace}).gone() {
		t.Error("what is there counts as gone")
	}
	pod.Kill()
	wantGone(t, byNumber)
	if both.gone() || byBoth.Err() != nil || again.Err() != nil {
		t.Error("a namespace that outlives its process counts as gone")
	}
	unmount()
	wantGone(t, byBoth)
	if !(netnsRef{path: path}).gone() || !(netnsRef{path: path + "-2"}).gone() {
		t.Error("a file that no namespace is mounted on counts as one")
	}
}

// A tunnel to a sandbox that was taken down ends, whether it is used or not.
func TestTunnelEndsWithSandbox(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := echoing(t, pod)
	r := startNode(t, pod, Node{})
	local, stop := r.forwarded(t, port)
	defer stop()
	if got := say(t, local[0], "hello"); got != "hello" {
		t.Errorf("echo %q", got)
	}
	pod.Kill()
	r.log.waitFor(t, `"msg":"tunnel closed"`)
}
