package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A test that waits while the last one before it clears up locks the file that the next ones lock, too, and not the
// one that is removed.
func TestTracesFileIsRemoved(t *testing.T) {
	NoLeaks(t)
	path := filepath.Join(t.TempDir(), "traces")
	last, err := joinTraces(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(last.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	info, err := last.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var next *os.File
	joined := make(chan error, 1)
	go func() {
		var err error
		next, err = joinTraces(path)
		joined <- err
	}()
	Await(t, "another test waits for the lock", func() bool { // proc_locks(5)
		waiter := fmt.Sprintf("-> FLOCK ADVISORY READ %d ", os.Getpid())
		locks, _ := os.ReadFile("/proc/locks")
		for line := range strings.Lines(string(locks)) {
			line = strings.Join(strings.Fields(line), " ")
			if strings.Contains(line, waiter) && strings.Contains(line, fmt.Sprintf(":%d 0 EOF", info.Sys().(*syscall.Stat_t).Ino)) {
				return true
			}
		}
		return false
	})
	_ = os.Remove(path)
	_ = last.Close()
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	locked, err := next.Stat()
	if named, staterr := os.Stat(path); err != nil || staterr != nil || !os.SameFile(locked, named) {
		t.Errorf("the file that was removed is locked: %v, %v", err, staterr)
	}
}

// A process of the ordinary user that has outlived whoever started it is a trace, until it ends.
func TestStrays(t *testing.T) {
	Root(t)
	NoLeaks(t)
	cmd := exec.Command("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
	ByUser(cmd)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	end := func() { _ = syscall.Kill(pid, syscall.SIGKILL) }
	defer end()
	stray := func() bool { return slices.Contains(strays(), fmt.Sprintf("process %d (sleep)", pid)) }
	Await(t, "it is found", stray)
	if removeTrace(fmt.Sprintf("process %d (sleep)", pid)) {
		t.Error("a process is taken for a file that is gone")
	}
	end()
	Await(t, "it is found no more", func() bool { return !stray() })
}

// Below a process that takes orphans in, that is their parent.
func TestStraysBelowSubreaper(t *testing.T) {
	Root(t)
	NoLeaks(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	out, err := exec.Command("/proc/self/exe", "-test.v", "-test.run=^TestStrays$").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}
