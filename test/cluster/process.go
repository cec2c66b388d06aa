package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process as it was once seen. PIDs are used again; together with the start time,
// in clock ticks since boot as in proc_pid_stat(5), one names a single process for ever.
type process struct {
	PID     int
	Started uint64
}

// findProcess looks at a process that runs now.
func findProcess(pid int) (process, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, os.ErrProcessDone
	}
	// The second field is the name in brackets and may itself contain blanks and brackets.
	stat := string(data)
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const state, starttime = 3 - 3, 22 - 3
	if len(fields) <= starttime || fields[state] == "Z" || fields[state] == "X" {
		return process{}, os.ErrProcessDone
	}
	started, err := strconv.ParseUint(fields[starttime], 10, 64)
	return process{PID: pid, Started: started}, err
}

// open holds the process by its pidfd. The comparison comes after the opening:
// then what is held is what was compared. The caller releases it.
func (p process) open() (*os.Process, error) {
	held, err := os.FindProcess(p.PID)
	if err != nil {
		return nil, err
	}
	if now, err := findProcess(p.PID); err != nil || now != p {
		held.Release()
		return nil, os.ErrProcessDone
	}
	return held, nil
}

func (p process) running() bool {
	now, err := findProcess(p.PID)
	return err == nil && now == p
}

// end sends the signal and waits; after the grace it kills. A process that is gone already is no error.
func (p process) end(ctx context.Context, signal syscall.Signal, grace time.Duration) error {
	held, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Release()
	if err := held.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if waitExit(patient, held) == nil {
		return nil
	}
	if err := held.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return waitExit(ctx, held)
}

// waitExit returns once the process ended: its pidfd turns readable then, also for one
// that is not this program's child. See pidfd_open(2).
func waitExit(ctx context.Context, held *os.Process) error {
	var err error
	handleErr := held.WithHandle(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for ready := 0; ready == 0 && err == nil; {
			ready, err = unix.Poll(poll, 50)
			if errors.Is(err, unix.EINTR) {
				ready, err = 0, nil
			}
			if ready == 0 && err == nil {
				err = ctx.Err()
			}
		}
	})
	return errors.Join(handleErr, err)
}
