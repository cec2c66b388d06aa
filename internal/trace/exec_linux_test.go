//go:build amd64 || arm64

package trace_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/trace"
)

func TestSuccess(t *testing.T) {
	w, marker := watch(t), mark(t)
	before := time.Now()
	cmd := run(t, exec.Command("/bin/true", marker, "two words", ""))
	after := time.Now()
	got := w.one(t, marker)
	// The time of day is computed, and the test may be held up meanwhile.
	if got.Time.Before(before.Add(-5*time.Second)) || got.Time.After(after.Add(5*time.Second)) {
		t.Errorf("at %v, want from %v to %v", got.Time, before, after)
	}
	if samePIDs(t) && (got.PID != cmd.Process.Pid || got.PPID != os.Getpid()) {
		t.Errorf("process %d of %d, want %d of %d", got.PID, got.PPID, cmd.Process.Pid, os.Getpid())
	}
	got.Time, got.PID, got.PPID = time.Time{}, 0, 0
	want := trace.Exec{Comm: "true", Args: []string{"/bin/true", marker, "two words", ""}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFailure(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		file string
		want syscall.Errno
	}{
		{"/no/such/file", syscall.ENOENT},
		{"no-such-file", syscall.ENOENT},
		{"/", syscall.EACCES},
		{write("not-executable", "#!/bin/sh\n", 0o644), syscall.EACCES},
		{write("no-interpreter", "#!/no/such/interpreter\n", 0o755), syscall.ENOENT},
		{write("no-format", "text\n", 0o755), syscall.ENOEXEC},
		{"/bin/true/", syscall.ENOTDIR},
	}
	w := watch(t)
	for i, tt := range tests {
		fail(t, tt.file, mark(t, i), "two words", "")
	}
	w.stop()
	for i, tt := range tests {
		marker := mark(t, i)
		t.Run(filepath.Base(tt.file), func(t *testing.T) {
			got := w.one(t, marker)
			if got.Ret != -int(tt.want) || got.Truncated {
				t.Errorf("%+v, want %d", got, -tt.want)
			}
			if want := []string{tt.file, marker, "two words", ""}; !reflect.DeepEqual(got.Args, want) {
				t.Errorf("arguments %q, want %q", got.Args, want)
			}
			if samePIDs(t) && got.PPID != os.Getpid() {
				t.Errorf("parent %d, want %d", got.PPID, os.Getpid())
			}
		})
	}
}

func TestExecveat(t *testing.T) {
	for kind, want := range map[string]string{"name": "/dev/fd/3/true", "self": "/dev/fd/4"} {
		t.Run(kind, func(t *testing.T) {
			w, marker := watch(t), mark(t)
			cmd := child("execveat", kind, marker)
			for _, path := range []string{"/bin", "/bin/true"} {
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			}
			run(t, cmd)
			events := w.all(marker)
			if len(events) != 3 {
				t.Fatalf("got %+v, want the child, a failure and a success", events)
			}
			for i, want := range []trace.Exec{
				{Ret: -int(syscall.ENOENT), Args: []string{"/dev/fd/3/no-such-file", kind, marker}},
				{Args: []string{want, kind, marker}},
			} {
				got := events[1+i]
				if got.Ret != want.Ret || !reflect.DeepEqual(got.Args, want.Args) || got.PID != events[0].PID {
					t.Errorf("got %+v, want %+v of process %d", got, want, events[0].PID)
				}
			}
		})
	}
}

// TestThread: the thread that calls exec takes the number of its process' first
// thread when it succeeds. Both calls are the process'.
func TestThread(t *testing.T) {
	w, marker := watch(t), mark(t)
	run(t, child("thread", marker))
	events := w.all(marker)
	if len(events) != 3 {
		t.Fatalf("got %+v, want the child, a failure and a success", events)
	}
	if got := events[1]; got.Ret != -int(syscall.ENOENT) || got.Args[0] != "/no/such/file" || got.PID != events[0].PID {
		t.Errorf("got %+v, want a failure of process %d", got, events[0].PID)
	}
	if got := events[2]; got.Ret != 0 || got.Comm != "true" || got.PID != events[0].PID {
		t.Errorf("got %+v, want a success of process %d", got, events[0].PID)
	}
}

// TestScript: the interpreter's arguments are not the script's.
func TestScript(t *testing.T) {
	dir := t.TempDir()
	inner, outer := filepath.Join(dir, "inner"), filepath.Join(dir, "outer")
	for path, text := range map[string]string{inner: "#!/bin/sh -e\n", outer: "#!" + inner + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{inner, outer} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			w, marker := watch(t), mark(t)
			run(t, exec.Command(file, marker))
			got := w.one(t, marker)
			if want := []string{file, marker}; !reflect.DeepEqual(got.Args, want) || got.Comm != filepath.Base(file) {
				t.Errorf("got %+v, want arguments %q", got, want)
			}
		})
	}
}

func TestBytes(t *testing.T) {
	w, marker := watch(t), mark(t)
	args := []string{marker, "\x1b[31m", "\xff\xfe", "\n", "é"}
	run(t, exec.Command("/bin/true", args...))
	if got := w.one(t, marker); !reflect.DeepEqual(got.Args[1:], args) {
		t.Errorf("arguments %q, want %q", got.Args[1:], args)
	}
}

// TestLength: arguments just within what a small and a large record take, and beyond.
func TestLength(t *testing.T) {
	tests := []struct {
		size      int // of all arguments, in bytes, each with its NUL
		truncated bool
	}{{250, false}, {256, false}, {257, false}, {511, false}, {4095, false}, {4096, false}, {5000, true}, {100_000, true}}
	long := func(size int, first, marker string) string {
		return strings.Repeat("x", size-len(first)-len(marker)-3)
	}
	w := watch(t)
	for _, tt := range tests {
		marker := mark(t, "success", tt.size)
		run(t, exec.Command("/bin/true", marker, long(tt.size, "/bin/true", marker)))
		marker = mark(t, "failure", tt.size)
		fail(t, "/no/such/file", marker, long(tt.size, "argv0", marker))
	}
	w.stop()
	for _, tt := range tests {
		marker := mark(t, "success", tt.size)
		checkLength(t, w.one(t, marker), long(tt.size, "/bin/true", marker), tt.truncated)
		marker = mark(t, "failure", tt.size)
		checkLength(t, w.one(t, marker), long(tt.size, "argv0", marker), tt.truncated)
	}
}

func checkLength(t *testing.T, got trace.Exec, long string, truncated bool) {
	t.Helper()
	last := got.Args[len(got.Args)-1]
	if len(got.Args) != 3 || got.Truncated != truncated {
		t.Fatalf("%d arguments of %d bytes, truncated: %v, want 3, %v", len(got.Args), len(long), got.Truncated, truncated)
	}
	if (last == long) == truncated || !strings.HasPrefix(long, last) {
		t.Errorf("%d of %d bytes of the last argument", len(last), len(long))
	}
	if truncated && len(last) < 3900 {
		t.Errorf("only %d bytes of the last argument are left", len(last))
	}
}

func TestMany(t *testing.T) {
	w, marker := watch(t), mark(t)
	args := []string{marker}
	for i := range 1000 {
		args = append(args, fmt.Sprint(i%10))
	}
	run(t, exec.Command("/bin/true", args...))
	fail(t, "/no/such/file", args...)
	events := w.all(marker)
	if len(events) != 2 {
		t.Fatalf("%d events, want 2", len(events))
	}
	if got := events[0]; !reflect.DeepEqual(got.Args[1:], args) || got.Truncated {
		t.Errorf("%d arguments, truncated: %v, want all", len(got.Args), got.Truncated)
	}
	if got := events[1]; !reflect.DeepEqual(got.Args[1:], args[:255]) || !got.Truncated {
		t.Errorf("%d arguments, truncated: %v, want 256 and no more", len(got.Args), got.Truncated)
	}
}

// TestLongName: names up to PATH_MAX are whole. The kernel refuses longer ones, and reads no more of them.
func TestLongName(t *testing.T) {
	lengths := []int{126, 127, 128, 129, 4094, 4095, 4096}
	name := func(length int) string { return strings.Repeat("/x", length/2) + strings.Repeat("y", length%2) }
	w := watch(t)
	for _, length := range lengths {
		fail(t, name(length), mark(t, length))
	}
	w.stop()
	for _, length := range lengths {
		got, want := w.one(t, mark(t, length)), name(length)[:min(length, 4095)]
		if got.Args[0] != want || got.Truncated {
			t.Errorf("%d of %d bytes of the name, truncated: %v", len(got.Args[0]), length, got.Truncated)
		}
	}
}

// TestBurst: whatever is not seen of many programs is counted as lost.
func TestBurst(t *testing.T) {
	const n = 1000
	w, marker := watch(t), mark(t)
	for range n {
		run(t, exec.Command("/bin/true", marker))
	}
	got := len(w.all(marker))
	if got > n || uint64(got)+w.lost < n {
		t.Errorf("%d seen and %d lost of %d", got, w.lost, n)
	}
}

// TestLost: a reader that stalls loses events, and hears of it.
func TestLost(t *testing.T) {
	const n = 700
	testenv.Root(t)
	testenv.NoLeaks(t)
	w, marker := &watcher{t: t}, mark(t)
	stall := make(chan struct{})
	w.run(trace.Execs{
		Event: func(e trace.Exec) error {
			<-stall
			w.seen = append(w.seen, e)
			return nil
		},
		Lost: func(n uint64) { w.lost += n },
	})
	long := strings.Repeat("x", 3000)
	for range n {
		fail(t, "/no/such/file", marker, long)
	}
	close(stall)
	got := len(w.all(marker))
	if got == 0 || got == n || w.lost == 0 || uint64(got)+w.lost < n {
		t.Errorf("%d seen and %d lost of %d", got, w.lost, n)
	}
}

func TestEventError(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	w, enough := &watcher{t: t}, errors.New("enough")
	w.run(trace.Execs{Event: func(trace.Exec) error { return enough }})
	run(t, exec.Command("/bin/true"))
	if err := <-w.ended; !errors.Is(err, enough) {
		t.Errorf("Run returned %v, want %v", err, enough)
	}
}

func TestReadyError(t *testing.T) {
	w := watch(t) // skips where nothing can be traced
	w.stop()
	enough := errors.New("enough")
	execs := trace.Execs{Ready: func() error { return enough }, Event: func(trace.Exec) error { return nil }}
	if err := execs.Run(context.Background()); !errors.Is(err, enough) {
		t.Errorf("Run returned %v, want %v", err, enough)
	}
}

// TestBoth: two at once do not disturb each other.
func TestBoth(t *testing.T) {
	first, second, marker := watch(t), watch(t), mark(t)
	run(t, exec.Command("/bin/true", marker))
	first.one(t, marker)
	run(t, exec.Command("/bin/true", marker))
	if got := len(second.all(marker)); got != 2 {
		t.Errorf("the second saw %d events, want 2", got)
	}
}

// BenchmarkExec is what a fork and exec of /bin/true takes, with and without tracing.
func BenchmarkExec(b *testing.B) {
	spawn := func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("untraced", spawn)
	b.Run("traced", func(b *testing.B) {
		w := &watcher{t: b}
		w.run(trace.Execs{Event: func(trace.Exec) error { return nil }})
		defer w.stop()
		spawn(b)
	})
}
