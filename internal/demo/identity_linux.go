package demo

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/proc"
)

// process names a process for longer than its PID does: PIDs get reused,
// but not within one clock tick. The zero value is no process.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

// identify is the zero process if there is none.
func identify(pid int) process {
	stat, err := proc.ReadStat(pid)
	if err != nil {
		return process{}
	}
	return process{PID: pid, Start: stat.Started}
}

// kill ends the process and waits until it is gone. It does nothing when
// the PID is another process by now: the pidfd is opened before the check,
// so that what was checked is what gets the signal.
func (p process) kill() error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if identify(p.PID) != p {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return waitGone(fd, p.PID)
}

// waitGone gives a killed process two seconds: it needs longer only when it
// hangs inside the kernel.
func waitGone(fd, pid int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 2000)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case n == 0:
			return fmt.Errorf("process %d does not end", pid)
		}
		return nil
	}
}
