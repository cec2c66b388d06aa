package main

import (
	"os/exec"
	"syscall"
)

// endsWithParent makes the kernel kill a command when this process ends, however it ends.
// The goroutine that starts the command must wait for it, locked to its thread.
func endsWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
