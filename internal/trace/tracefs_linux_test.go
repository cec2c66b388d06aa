//go:build amd64 || arm64

package trace_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/trace"
)

// TestTracefs: tracing works wherever tracefs is mounted, and where it is not. It leaves the mounts as they were.
func TestTracefs(t *testing.T) {
	for name, mount := range map[string]func(dir string) error{
		"not mounted":    func(string) error { return nil },
		"mounted":        func(dir string) error { return unix.Mount("tracefs", dir, "tracefs", 0, "") },
		"in debugfs":     func(dir string) error { return unix.Mount("debugfs", dir, "debugfs", 0, "") },
		"mounted over":   mountOver,
		"mounted partly": mountPartly,
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Root(t)
			testenv.NoLeaks(t)
			w, marker, dir := &watcher{t: t}, mark(t), t.TempDir()
			var before, after string
			w.runAfter(func() error {
				if err := privateMounts(); err != nil {
					return err
				}
				err := mount(dir)
				before = mounts()
				return err
			}, trace.Execs{
				Event: func(e trace.Exec) error {
					w.seen, after = append(w.seen, e), mounts()
					return nil
				},
			})
			run(t, exec.Command("/bin/true", marker))
			w.one(t, marker)
			if after != before {
				t.Errorf("mounts before:\n%s\nand after:\n%s", before, after)
			}
		})
	}
}

// mountOver mounts tracefs, and then something else over it.
func mountOver(dir string) error {
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return err
	}
	return unix.Mount("none", dir, "tmpfs", 0, "")
}

// mountPartly mounts a folder of tracefs that has no tracepoints.
func mountPartly(dir string) error {
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil {
		return err
	}
	return unix.Mount(dir+"/options", dir, "", unix.MS_BIND, "")
}

// privateMounts gives the calling goroutine mounts of its own, and a thread that ends with it.
func privateMounts() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return unmountTracefs()
}

// unmountTracefs unmounts tracefs wherever it is, and debugfs, which leads to it.
func unmountTracefs() error {
	for line := range strings.Lines(mounts()) {
		path := strings.Fields(line)[4]
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return nil
}

// mounts is where the calling thread has tracefs, and debugfs, mounted. Other
// mounts end without its doing, when somebody removes the folder that they are on.
func mounts() (table string) {
	all, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(all)) {
		if _, source, _ := strings.Cut(line, " - "); strings.HasPrefix(source, "tracefs ") || strings.HasPrefix(source, "debugfs ") {
			table += line
		}
	}
	return table
}
