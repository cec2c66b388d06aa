package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/testenv"
)

// dataPathPID is the number of the data path of the Node that runs here.
func dataPathPID(t *testing.T) (pid int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lists {
		list, _ := os.ReadFile(path) // a thread may be gone
		for _, child := range strings.Fields(string(list)) {
			if name, _ := os.ReadFile("/proc/" + child + "/comm"); string(name) == "porthole-data\n" {
				_, _ = fmt.Sscan(child, &pid)
			}
		}
	}
	if pid == 0 {
		t.Fatal("no data path")
	}
	return pid
}

// The data path dies: its forwards with it, and nothing of what the kubelet does.
func TestDataPathKilled(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := echoing(t, pod)
	r := startNode(t, pod, Node{})
	asking, asked := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for more := true; more && err == nil; {
			_, err = r.cri.Version(context.Background(), &cri.VersionRequest{})
			select {
			case <-asking:
				more = false
			default:
			}
		}
		asked <- err
	}()
	for range 3 {
		local, stop := r.forwarded(t, port)
		open, err := net.Dial("tcp", local[0])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(open, "x")
		if _, err := open.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		before := dataPathPID(t)
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = open.SetReadDeadline(time.Now().Add(waitTime))
		if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("its forward goes on: %v", err)
		}
		open.Close()
		stop()
		if u := r.url(t); u.Host != r.Streaming { // which waits for the next one
			t.Errorf("forwards are at %s now, not at %s", u.Host, r.Streaming)
		}
	}
	close(asking)
	if err := <-asked; err != nil {
		t.Error("a call of the kubelet's:", err)
	}
	r.wantMetrics(t, `porthole_cri_requests_total{code="OK",method="PortForward"} 6`, `process_open_fds{process="proxy"}`, `process_open_fds{process="data_path"}`)
	local, stop := r.forwarded(t, port)
	if got := say(t, local[0], "hello"); got != "hello" {
		t.Errorf("echo %q", got)
	}
	stop()
	r.stop()
}

// A node whose data path does not come to serve says so, and is never ready.
func TestDataPathDoesNotStart(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	dir := t.TempDir()
	for name, test := range map[string]struct{ command, want string }{
		"no such program": {dir + "/none", "no such file or directory"},
		"it ends":         {"false", "exit status 1"},
	} {
		n := Node{
			Listen: "unix://" + dir + "/cri.sock", Upstream: "unix://" + dir + "/runtime.sock",
			Log: quiet, Ready: func(Addresses) { t.Error("it runs") },
			DataPath: func() *exec.Cmd { return exec.Command(test.command) },
		}
		if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "data path") {
			t.Errorf("%s: Run = %v", name, err)
		}
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

// It makes way for its parent where memory is short.
func TestDataPathGivesWay(t *testing.T) {
	testenv.NoLeaks(t)
	startNode(t, testenv.NewPod(t), Node{})
	ours, theirs := oomScoreAdj(t, os.Getpid()), oomScoreAdj(t, dataPathPID(t))
	if theirs <= ours && ours < 1000 {
		t.Errorf("oom_score_adj is %d, the parent's %d", theirs, ours)
	}
}

func oomScoreAdj(t *testing.T, pid int) (score int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Sscan(string(text), &score)
	return score
}
