//go:build amd64 || arm64

package trace_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/trace"
)

// childVariable makes the test's binary one of children instead.
const childVariable = "PORTHOLE_TRACE_CHILD"

// children are programs that call exec as a test wants it, and succeed in the
// end. Their arguments are passed on.
var children = map[string]func(args []string){
	"execveat": execveat,
	"thread":   thread,
}

func TestMain(m *testing.M) {
	if child := children[os.Getenv(childVariable)]; child != nil {
		child(os.Args[1:])
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child is one of children, to be started.
func child(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	return cmd
}

// execveat fails to execute a file of a directory, and then executes one by
// the directory, of which descriptor 3 is one, or by itself, which descriptor 4 is.
func execveat(args []string) {
	at(3, "no-such-file", args, 0)
	if args[0] == "self" {
		at(4, "", args, unix.AT_EMPTY_PATH)
	}
	at(3, "true", args, 0)
}

func at(fd int, file string, args []string, flags int) {
	path, _ := unix.BytePtrFromString(file)
	argv, _ := syscall.SlicePtrFromStrings(append([]string{"argv0"}, args...))
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(&argv[0])), 0, uintptr(flags), 0)
	fmt.Fprintln(os.Stderr, "execveat:", errno)
}

// thread fails to execute a file on a thread that is not the first of the
// process, and then executes one there.
func thread(args []string) {
	runtime.LockOSThread() // main's goroutine has the first thread
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			return
		}
		_ = syscall.Exec("/no/such/file", append([]string{"argv0"}, args...), nil)
		_ = syscall.Exec("/bin/true", append([]string{"argv0"}, args...), nil)
	}()
	<-done
}

// watcher collects what is traced while a test runs.
type watcher struct {
	t       testing.TB
	cancel  context.CancelFunc
	ended   chan error
	stopped sync.Once

	seen []trace.Exec // whole when stopped
	lost uint64       // likewise
}

// watch starts tracing. The test has to stop it.
func watch(t *testing.T) *watcher {
	t.Helper()
	testenv.Root(t)
	testenv.NoLeaks(t)
	w := &watcher{t: t}
	w.run(trace.Execs{
		Event: func(e trace.Exec) error {
			w.seen = append(w.seen, e)
			return nil
		},
		Lost: func(n uint64) { w.lost += n },
	})
	return w
}

// run starts tracing in the background, and returns when it is in place.
func (w *watcher) run(execs trace.Execs) {
	w.t.Helper()
	w.runAfter(func() error { return nil }, execs)
}

// runAfter is run on a goroutine that does something else first.
func (w *watcher) runAfter(prepare func() error, execs trace.Execs) {
	w.t.Helper()
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	w.t.Cleanup(w.cancel)
	ready := make(chan struct{})
	execs.Ready = func() error { close(ready); return nil }
	w.ended = make(chan error, 1)
	go func() {
		err := prepare()
		if err == nil {
			err = execs.Run(ctx)
		}
		w.ended <- err
	}()
	select {
	case <-ready:
	case err := <-w.ended:
		for _, lacking := range []error{trace.ErrPermission, trace.ErrNoBTF, trace.ErrNoRingBuffer, trace.ErrNoTracepoints} {
			if errors.Is(err, lacking) {
				testenv.Lacking(w.t, err.Error())
			}
		}
		w.t.Fatal(err)
	}
}

// stop ends tracing, so that all has been seen. It may be called again.
func (w *watcher) stop() {
	w.t.Helper()
	w.cancel()
	w.stopped.Do(func() {
		if err := <-w.ended; err != nil {
			w.t.Error(err)
		}
	})
}

// all stops and returns the events that have an argument, which no other
// program on the machine uses.
func (w *watcher) all(marker string) (events []trace.Exec) {
	w.t.Helper()
	w.stop()
	for _, e := range w.seen {
		if slices.Contains(e.Args, marker) {
			events = append(events, e)
		}
	}
	return events
}

// one is the only event with the marker.
func (w *watcher) one(t *testing.T, marker string) trace.Exec {
	t.Helper()
	events := w.all(marker)
	if len(events) != 1 {
		t.Fatalf("%d events with %q, want 1: %+v", len(events), marker, events)
	}
	return events[0]
}

// mark is an argument that is a test's own, and of this run, as what else is given.
func mark(t *testing.T, more ...any) string {
	return fmt.Sprintf("%s-%d-%s", t.Name(), os.Getpid(), fmt.Sprint(more...))
}

// fail calls exec in a new process, which must fail.
func fail(t *testing.T, file string, args ...string) {
	t.Helper()
	pid, err := syscall.ForkExec(file, append([]string{"argv0"}, args...), nil)
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		t.Fatalf("%s could be executed", file)
	}
}

// run runs a program to its end.
func run(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
	return cmd
}

// samePIDs tells whether this process counts PIDs as the kernel does: in the
// first namespace, whose number is fixed.
func samePIDs(t *testing.T) bool {
	t.Helper()
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	return ns == "pid:[4026531836]"
}
