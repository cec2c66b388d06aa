package testenv

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// threadSlack is how many threads the runtime may start and keep for itself, beside one
// for each processor; one thread held for each of some connections is more than that.
const threadSlack = 8

// NoLeaks checks, when the test and the cleanups registered after this call
// are over, that goroutines, descriptors and threads are back where they were.
// Tests that use it must not run in parallel.
func NoLeaks(t testing.TB) {
	t.Helper()
	fds, threads := Descriptors(t), Threads(t)
	t.Cleanup(func() {
		var left []string
		within(settle, func() bool { left = missing(Descriptors(t), fds); return len(left) == 0 })
		if len(left) > 0 {
			t.Errorf("descriptors left behind: %s", strings.Join(left, ", "))
		}
		if now := Threads(t); now > threads+threadSlack+runtime.GOMAXPROCS(0) {
			t.Errorf("%d threads, %d before: are some locked to their goroutine?", now, threads)
		}
	})
	NoGoroutines(t) // which are looked at first
}

// Descriptors lists the open file descriptors of this process as "number: what
// it is", without the runtime's own poller.
func Descriptors(t testing.TB) []string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		to, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" {
			continue // gone since, as the directory itself, or made once by the runtime
		}
		all = append(all, fmt.Sprintf("%s: %s", e.Name(), to))
	}
	return all
}

// Threads is the number of threads of this process.
func Threads(t testing.TB) int { return Status(t, os.Getpid(), "Threads") }

// Status is a number of /proc/PID/status: Threads, or a size in kB such as VmRSS.
func Status(t testing.TB, pid int, key string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in /proc/%d/status", key, pid)
	return 0
}

func missing(now, before []string) []string {
	return slices.DeleteFunc(now, func(fd string) bool { return slices.Contains(before, fd) })
}
