package demo

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process names a process for longer than its PID does: PIDs get reused,
// but not within one clock tick. The zero value is no process.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
}

// identify is the zero process if there is none.
func identify(pid int) process {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}
	}
	// The second field is the program's name and may hold anything, even
	// parentheses; starttime is field 22 (proc_pid_stat(5)).
	_, rest, _ := cutLast(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return process{}
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return process{}
	}
	return process{PID: pid, Start: start}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
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
