package main

import (
	"os/exec"
	"syscall"
)

// endsWithParent has a command killed when this process ends, however it does. The
// command must be waited for by the goroutine that starts it, locked to its thread.
func endsWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
