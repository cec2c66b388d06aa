package cluster

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// sleeper starts a shell command that the test ends at the latest.
func sleeper(t *testing.T, script string) process {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { cmd.Wait(); close(waited) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-waited })
	p, err := findProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A PID that was used again names a process that is not ours to end.
func TestEndSparesTheSuccessor(t *testing.T) {
	p := sleeper(t, "exec sleep 60")
	earlier := process{PID: p.PID, Started: p.Started - 1}
	if _, err := earlier.open(); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("opened another process: %v", err)
	}
	if err := earlier.end(t.Context(), syscall.SIGKILL, time.Second); err != nil {
		t.Error(err)
	}
	if !p.running() {
		t.Error("the wrong process was ended")
	}
}

func TestEndKillsAfterTheGrace(t *testing.T) {
	p := sleeper(t, `trap "" TERM; while :; do sleep 0.1; done`)
	time.Sleep(100 * time.Millisecond)
	if err := p.end(t.Context(), syscall.SIGTERM, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.running() {
		t.Error("still running")
	}
	if err := p.end(t.Context(), syscall.SIGTERM, time.Second); err != nil {
		t.Errorf("second end: %v", err)
	}
}
