package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/testenv"
)

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{StateDir: filepath.Join(t.TempDir(), "state"), Bridge: bridgeName()}
}

func startPod(t *testing.T, cfg Config) *Pod {
	t.Helper()
	pod, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return pod
}

// inside runs the test binary in a role, in the pod's namespaces.
func inside(t *testing.T, pod *Pod, args ...string) (string, error) {
	t.Helper()
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		testenv.Lacking(t, "nsenter, of util-linux")
	}
	args = append([]string{"-m", "-n", "-p", "-u", "-i", "-t", strconv.Itoa(pod.PID), programPath}, args...)
	cmd := exec.Command(nsenter, args...)
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0"}
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &talk)
	}
	return string(out), err
}

func TestPodIsReachableOnlyInside(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	pod := startPod(t, testConfig(t))

	page, err := inside(t, pod, "get", "http://127.0.0.1:8080/")
	if err != nil || !strings.HasPrefix(page, "hello from kuard\n") {
		t.Errorf("inside: %v: %q", err, page)
	}
	for _, variable := range podEnv() {
		if !strings.Contains(page, variable) {
			t.Errorf("environment lacks %s", variable)
		}
	}
	if n := strings.Count(page, "\n"); n != len(podEnv()) {
		t.Errorf("environment has more than it should: %q", page)
	}
	conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(pod.IP, 8080).String(), testenv.Patience)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial %v:8080 from the host: %v, %v; want it refused", pod.IP, conn, err)
	}
}

func TestPodHasItsOwnNamespaces(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	pod := startPod(t, testConfig(t))

	for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc"} {
		mine, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pod.PID, kind))
		if err != nil || theirs == mine {
			t.Errorf("%s: %q, %v; the host's is %q", kind, theirs, err, mine)
		}
	}
	status := readProc(t, pod, "status")
	for _, want := range []string{"NSpid:\t" + strconv.Itoa(pod.PID) + "\t1\n", "NoNewPrivs:\t1\n",
		"Uid:\t65534\t65534\t65534\t65534\n", "Groups:\t \n", "CapBnd:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	uts, err := exec.Command("nsenter", "-u", "-t", strconv.Itoa(pod.PID), "hostname").Output()
	if err != nil || string(uts) != "kuard\n" {
		t.Errorf("hostname: %q, %v", uts, err)
	}
}

// readProc reads a file below /proc/PID of the pod.
func readProc(t *testing.T, pod *Pod, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pod.PID, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPodSeesOnlyItsFiles(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	pod := startPod(t, testConfig(t))

	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pod.PID))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		// Shared objects, of a test binary that is linked dynamically.
		if !strings.HasPrefix(entry.Name(), "lib") {
			names = append(names, entry.Name())
		}
	}
	if got := strings.Join(names, " "); got != "dev etc proc sys tmp usr" {
		t.Errorf("the pod's root has %s", got)
	}
	for name, want := range podFiles(pod.IP, pod.BridgeIP) {
		if got := readProc(t, pod, "root/"+name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for line := range strings.Lines(readProc(t, pod, "mountinfo")) {
		fields := strings.Fields(line)
		at := fields[4]
		if at != "/" && at != "/proc" && at != "/sys" && at != programPath &&
			!strings.HasPrefix(at, "/dev/") && !strings.Contains(at, ".so") {
			t.Errorf("unexpected mount: %s", line)
		}
	}
	// The program's file is the host's own: not even root may write it.
	if _, err := os.OpenFile(fmt.Sprintf("/proc/%d/root%s", pod.PID, programPath), os.O_WRONLY, 0); err == nil {
		t.Error("the program can be written from inside the pod")
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pod.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		at, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pod.PID, fd.Name()))
		if n, _ := strconv.Atoi(fd.Name()); n > 2 && strings.HasPrefix(at, "/") {
			t.Errorf("the application inherited %s", at)
		}
	}
}

func TestPodResolvesTheClustersNames(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	pod := startPod(t, testConfig(t))

	for name, want := range map[string]string{
		"kuard":                            pod.IP.String(), // /etc/hosts
		"kuard.default":                    pod.IP.String(),
		"kubernetes":                       "10.96.0.1",
		"kubernetes.default.svc":           "10.96.0.1",
		"kuard.default.svc.cluster.local.": pod.IP.String(),
		"10.96.0.1":                        "kubernetes.default.svc.cluster.local.",
		strings.ReplaceAll(pod.IP.String(), ".", "-") + ".default.pod.cluster.local": pod.IP.String(),
	} {
		got, err := inside(t, pod, "lookup", name)
		if err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, %v; want %s", name, got, err, want)
		}
	}
	if got, err := inside(t, pod, "lookup", "nobody.default.svc.cluster.local."); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("unknown name: %q, %v", got, err)
	}
}

func TestSecondDemoIsRefused(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	pod := startPod(t, cfg)

	_, err := Start(t.Context(), cfg)
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("second start: %v", err)
	}
	if _, err := inside(t, pod, "get", "http://127.0.0.1:8080/"); err != nil {
		t.Errorf("the first does not answer any more: %v", err)
	}
}

func TestCloseTwiceAndStartAgain(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	for range 3 {
		pod := startPod(t, cfg)
		for range 2 {
			if err := pod.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := pod.Wait(); err == nil {
			t.Error("a killed application has no error")
		}
		if _, err := os.Stat(cfg.StateDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state directory: %v", err)
		}
	}
}

func TestDoneWhenTheApplicationDies(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	pod := startPod(t, testConfig(t))
	if err := unix.Kill(pod.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-pod.Done():
	case <-time.After(testenv.Patience):
		t.Fatal("not done")
	}
	if exit, ok := errors.AsType[*exec.ExitError](pod.Wait()); !ok || exit.String() != "signal: killed" {
		t.Errorf("wait: %v", pod.Wait())
	}
}

func TestApplicationThatDiesAtStart(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	cfg.Args = []string{"die", "--frobnicate"}
	var said bytes.Buffer
	cfg.Stderr = &said
	_, err := Start(t.Context(), cfg)
	if _, ok := errors.AsType[*exec.ExitError](err); !ok || !strings.Contains(err.Error(), "no such flag: --frobnicate") {
		t.Errorf("start: %v", err)
	}
	if said.String() != "no such flag: --frobnicate\n" {
		t.Errorf("stderr: %q", said.String())
	}
}

func TestApplicationThatDoesNotListen(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	cfg.Args = []string{"idle"}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := Start(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start: %v", err)
	}
}

func TestProgramThatOnlyRootMayExecute(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	cfg := testConfig(t)
	cfg.Exe = filepath.Join(t.TempDir(), "porthole")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Exe, self, 0o700); err != nil {
		t.Fatal(err)
	}
	pod := startPod(t, cfg)
	if _, err := inside(t, pod, "get", "http://127.0.0.1:8080/"); err != nil {
		t.Error(err)
	}
}

func TestApplicationsOutput(t *testing.T) {
	testenv.Root(t)
	wantNoTrace(t)
	reads, writes := io.Pipe()
	cfg := testConfig(t)
	cfg.Stdout = writes
	var reading sync.WaitGroup
	defer reading.Wait()
	line := make([]byte, len("serving on 127.0.0.1:8080\n"))
	reading.Go(func() { _, _ = io.ReadFull(reads, line) })
	pod := startPod(t, cfg)
	reading.Wait()
	if string(line) != "serving on 127.0.0.1:8080\n" {
		t.Errorf("stdout: %q", line)
	}
	_ = pod.Close()
}
