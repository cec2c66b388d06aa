package testenv

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/proc"
)

// engineTraces are what engines make on a machine wherever they are told to keep what is theirs: files, and then the folders of
// these, and cgroups, which are taken away if nothing else is in them. Processes are looked for, too: see strays.
var engineTraces = []string{
	"/etc/docker/key.json", "/etc/docker", "/run/docker", "/opt/containerd",
	"/run/containerd", "/run/runc",
	"/etc/cni/net.d/cni.lock", "/etc/cni", "/var/lib/cni",
	"/var/lib/containers/cache/blob-info-cache-v1.boltdb", "/var/lib/containers",
	"/var/cache/containers/short-name-aliases.conf.lock", "/var/cache/containers",
	"/dev/shm/libpod_lock", fmt.Sprintf("/dev/shm/libpod_rootless_lock_%d", UserID),
	"/sys/fs/cgroup/docker", "/sys/fs/cgroup/libpod_parent", "/sys/fs/cgroup/k8s.io",
	"/sys/fs/cgroup/*/docker", "/sys/fs/cgroup/*/libpod_parent", "/sys/fs/cgroup/*/k8s.io",
}

// tracesFile is locked by all tests that have an engine, and lists what was there before the first of them.
const tracesFile = "/run/porthole-test-engines"

// noTraces takes away what engines have left on this machine, and was not there before, once the last test that has an engine ends,
// of whichever package.
func noTraces(t testing.TB) {
	t.Helper()
	f, err := joinTraces(tracesFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return // there are others
		}
		_, _ = f.Seek(0, io.SeekStart)
		before, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if left := removeTraces(strings.Split(string(before), "\n")); len(left) > 0 {
			t.Errorf("an engine leaves %s", strings.Join(left, ", "))
		}
		_ = os.Remove(tracesFile)
	})
}

// joinTraces returns the file at path, locked, with a list of the traces that were there before.
func joinTraces(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			// What is listed already is of tests that were killed, and have left their traces.
			if info, err := f.Stat(); err == nil && info.Size() == 0 {
				fmt.Fprintln(f, strings.Join(append(tracesNow(), "."), "\n"))
			}
		}
		err = os.NewSyscallError("flock", unix.Flock(int(f.Fd()), unix.LOCK_SH))
		locked, staterr := f.Stat()
		if err = cmp.Or(err, staterr); err != nil {
			_ = f.Close()
			return nil, err
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(locked, named) {
			return f, nil
		}
		_ = f.Close() // the last test before has removed it meanwhile, and the next ones lock another
	}
}

// tracesNow are those that are there.
func tracesNow() (paths []string) {
	for _, pattern := range engineTraces {
		all, _ := filepath.Glob(pattern)
		paths = append(paths, all...)
	}
	return append(paths, strays()...)
}

// aStray begins what tells of a process among traces.
const aStray = "process "

// reapers are the processes that may be the parent of one whose own has ended: the first one, and whichever of those
// above this one takes its place, such as systemd --user (PR_SET_CHILD_SUBREAPER). Other tests that run are not among them.
func reapers() []int {
	above := []int{1}
	for pid := os.Getppid(); pid > 1; {
		above = append(above, pid)
		stat, err := proc.ReadStat(pid)
		if err != nil {
			break
		}
		pid = stat.Parent
	}
	return above
}

// strays are the ordinary user's processes that have outlived whoever started them. Those of tests that are running have
// another parent.
func strays() (processes []string) {
	parents := reapers()
	for _, pid := range proc.All() {
		stat, err := proc.ReadStat(pid)
		if err == nil && slices.Contains(parents, stat.Parent) && !stat.Exited() && userOf(pid) == UserID {
			command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			processes = append(processes, fmt.Sprintf("%s%d (%s)", aStray, pid, strings.TrimSpace(string(command))))
		}
	}
	return processes
}

// removeTraces removes those that were not there before, and returns what cannot be.
func removeTraces(before []string) (left []string) {
	within(settle, func() bool { // cgroups are busy for a moment
		left = slices.DeleteFunc(tracesNow(), func(path string) bool { return slices.Contains(before, path) || removeTrace(path) })
		return len(left) == 0
	})
	return left
}

func removeTrace(path string) bool {
	if strings.HasPrefix(path, aStray) {
		return false // whose test was to end it
	}
	info, err := os.Lstat(path)
	if err == nil && info.IsDir() {
		return removeFolders(path)
	}
	return err != nil || os.Remove(path) == nil
}
