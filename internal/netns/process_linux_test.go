package netns_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// onEachKernel runs a test as the process would be held on kernels of some versions.
func onEachKernel(t *testing.T, test func(t *testing.T, open func(pid int) (*netns.Namespace, error))) {
	for _, version := range []string{"this", "5.9", "5.7", "5.2"} {
		t.Run(version, func(t *testing.T) {
			test(t, func(pid int) (*netns.Namespace, error) { return netns.OpenPIDOn(version, pid) })
		})
	}
}

func TestProcess(t *testing.T) {
	onEachKernel(t, func(t *testing.T, open func(pid int) (*netns.Namespace, error)) {
		testenv.NoLeaks(t)
		pod := testenv.NewPod(t)
		l := pod.Listen(t, "127.0.0.1:0")
		ns, err := open(pod.PID)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		for range 3 {
			conn, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		}
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := ns.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait while it runs = %v, want DeadlineExceeded", err)
		}
		pod.Kill()
		limit, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := ns.Wait(limit); !errors.Is(err, netns.ErrExited) {
			t.Errorf("Wait = %v, want ErrExited", err)
		}
		if _, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l))); !errors.Is(err, netns.ErrExited) {
			t.Errorf("Dial = %v, want ErrExited", err)
		}
	})
}

func TestNoProcess(t *testing.T) {
	testenv.Root(t)
	onEachKernel(t, func(t *testing.T, open func(pid int) (*netns.Namespace, error)) {
		testenv.NoLeaks(t)
		for name, pid := range map[string]int{"no such process": 1<<22 + 1, "zombie": zombie(t), "thread": thread(t)} {
			if ns, err := open(pid); !errors.Is(err, netns.ErrNoProcess) {
				t.Errorf("%s: opened %v, %v, want ErrNoProcess", name, ns, err)
			}
		}
	})
}

// thread is the number of a thread of this process that is not its first.
func thread(t *testing.T) int {
	t.Helper()
	number, done := make(chan int), make(chan struct{})
	t.Cleanup(func() { close(done) })
	for {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			number <- unix.Gettid()
			<-done
		}()
		if tid := <-number; tid != os.Getpid() {
			return tid
		}
	}
}

// A process that has got the number of the one that was opened is not entered.
func TestNumberIsUsedAgain(t *testing.T) {
	testenv.Root(t)
	onEachKernel(t, func(t *testing.T, open func(pid int) (*netns.Namespace, error)) {
		testenv.NoLeaks(t)
		pod := testenv.NewPod(t)
		ns, err := open(pod.PID)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		pod.Kill()
		startAs(t, pod.PID)
		if err := ns.Check(); !errors.Is(err, netns.ErrExited) {
			t.Errorf("Check = %v, want ErrExited", err)
		}
	})
}

// startAs starts a process with a number, which it needs a few attempts for when
// others start some as well; ns_last_pid is described in proc(5).
func startAs(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", strconv.AppendInt(nil, int64(pid-1), 10), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			return
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Fatalf("number %d is not given again", pid)
}

// Somebody who has entered a user namespace by hand may enter its network
// namespaces, but not go back.
func TestNoWayBack(t *testing.T) {
	if target := os.Getenv("PORTHOLE_TEST_ENTER"); target != "" {
		pid, err := strconv.Atoi(target)
		if err != nil {
			t.Fatal(err)
		}
		enterWithoutReturn(t, pid)
		return
	}
	testenv.Root(t)
	owner := exec.Command("sleep", "1000")
	owner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}},
	}
	if err := owner.Start(); err != nil {
		testenv.Lacking(t, "user namespaces")
	}
	t.Cleanup(func() { _ = owner.Process.Kill(); _ = owner.Wait() })
	pid := strconv.Itoa(owner.Process.Pid)
	inside := exec.Command("nsenter", "-t", pid, "-U", "--preserve-credentials", os.Args[0], "-test.run=^TestNoWayBack$", "-test.v")
	inside.Env = append(os.Environ(), "PORTHOLE_TEST_ENTER="+pid)
	if out, err := inside.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

func enterWithoutReturn(t *testing.T, pid int) {
	before, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.OpenPID(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for range 10 {
		if err := ns.Check(); err != nil {
			t.Fatal("Check:", err)
		}
		if _, err := ns.Dial(t.Context(), target.TCPPort(80)); !errors.Is(err, syscall.ENETUNREACH) { // its loopback is down
			t.Fatal("Dial:", err)
		}
		for _, where := range threads(t) {
			if where != before {
				t.Fatalf("a thread stayed in %s; home is %s", where, before)
			}
		}
	}
}

// threads are the network namespaces of this process' threads, once those that
// cannot come back have ended. The first thread is left out: the Go runtime lets it
// sleep for good instead of ending it.
func threads(t *testing.T) (all []string) {
	t.Helper()
	for end := time.Now().Add(testenv.Patience); time.Now().Before(end); {
		all = all[:0]
		strayed := false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if task.Name() == strconv.Itoa(os.Getpid()) {
				continue
			}
			where, err := os.Readlink(fmt.Sprintf("/proc/self/task/%s/ns/net", task.Name()))
			if err == nil {
				all = append(all, where)
				strayed = strayed || where != all[0]
			}
		}
		if !strayed {
			return all
		}
		time.Sleep(20 * time.Millisecond)
	}
	return all
}

// The kernel chooses the port of the near end among two, of which one is dialed: on
// 127.0.0.1 and on ::1, half of the connections would meet themselves.
func TestDialMeetsItself(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	err := pod.NS.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40001"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if conn, err := pod.NS.Dial(t.Context(), target.TCPPort(40000)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("Dial = %v, %v, want ECONNREFUSED", conn, err)
		}
	}
	pod.Listen(t, "127.0.0.1:40000") // nothing keeps the server from its port
}
