package local

import (
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

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/testenv"
)

// A script that reads the first line and then no more must not hold up
// connections, nor the end of the session.
func TestOutputNotRead(t *testing.T) {
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go echoEach(l)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(porthole, "forward", "--address", "127.0.0.1", fmt.Sprintf("pid://%d", pod.PID), fmt.Sprintf(":%d", testenv.Port(l)))
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line := make([]byte, 200)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.Fields(string(line[:n]))[2]
	// A pipe holds 64 KiB, which is 2,000 lines or so, and the queue 1,024.
	for i := range 5000 {
		if err := echoOnce(address); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error("after Ctrl-C:", err)
		}
	case <-time.After(time.Minute):
		t.Error("porthole goes on after Ctrl-C")
	}
}

// Whatever prints to a reader that has stalled ends with the first signal.
func TestOutputNotReadAtAll(t *testing.T) {
	pod := testenv.NewPod(t)
	for range 1024 { // as many as --all forwards
		pod.Listen(t, "127.0.0.1:0")
	}
	of := fmt.Sprintf("pid://%d", pod.PID)
	for _, args := range [][]string{
		{"targets", "--watch", "-o", "json", of}, {"targets", "--watch", of},
		{"forward", "-o", "json", "--all", of}, {"forward", "--all", of},
	} {
		t.Run(strings.Join(args[:3], " "), func(t *testing.T) { endsUnread(t, args) })
	}
}

// endsUnread ends porthole by one signal, when the pipe that it prints to is full.
func endsUnread(t *testing.T, args []string) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(porthole, args...)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill(); <-done }()
	testenv.Await(t, "the pipe is full", func() bool { return inWrite(cmd.Process.Pid) })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error("after Ctrl-C:", err)
		}
		done <- nil
	case <-time.After(testenv.Patience):
		t.Error("porthole goes on after Ctrl-C")
	}
}

// inWrite reports whether a thread of a process writes to its stdout (proc_pid_syscall(5)).
func inWrite(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, thread := range threads {
		call, _ := os.ReadFile(thread)
		if strings.HasPrefix(string(call), fmt.Sprintf("%d 0x1 ", unix.SYS_WRITE)) {
			return true
		}
	}
	return false
}

func echoEach(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
	}
}

func echoOnce(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// What was killed leaves nothing that keeps the next one from starting.
func TestKilled(t *testing.T) {
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	go echoEach(l)
	port := fmt.Sprintf("%d", testenv.Port(l))
	first := start(t, "forward", fmt.Sprintf("pid://%d", pod.PID), ":"+port)
	address := first.await(t, `^Forwarding from (127\S+) ->`)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.cmd.Wait()
	_, local, _ := net.SplitHostPort(address)
	second := start(t, "forward", fmt.Sprintf("pid://%d", pod.PID), local+":"+port)
	if err := echoOnce(second.await(t, `^Forwarding from (127\S+) ->`)); err != nil {
		t.Error(err)
	}
	second.interrupt(t)
}

// Whoever has a connection through a porthole that is killed sees a reset, and no end of file: at either end, half
// of something is nothing whole.
func TestKilledIsNoEnd(t *testing.T) {
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	p := start(t, "forward", fmt.Sprintf("pid://%d", pod.PID), fmt.Sprintf(":%d", testenv.Port(l)))
	near, err := net.Dial("tcp", p.await(t, `^Forwarding from (127\S+) ->`))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		_ = way[1].SetDeadline(time.Now().Add(testenv.Patience))
		if _, err := way[0].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := way[1].Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	for name, conn := range map[string]net.Conn{"near": near, "far": far} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
}
