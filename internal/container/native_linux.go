package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/route"
)

// openNative opens the network namespace of a container's process. The engine may be on another machine, whatever its
// socket looks like, and a number may be another process' by now: what is opened has to be the container's before
// and after. Errors: ErrElsewhere, ErrEnded, those of netns.
func openNative(_ context.Context, c found) (*route.Result, error) {
	if ownNetwork(c.Runtime) {
		return nil, fmt.Errorf("%w: %s", ErrOwnNetwork, c.Runtime)
	}
	if !isProcessOf(c) {
		return nil, ErrElsewhere
	}
	ns, err := netns.OpenPID(c.PID)
	if err == nil && !isProcessOf(c) {
		err = netns.ErrNoProcess
	}
	if err == nil {
		err = ns.Check()
	}
	if err != nil && ns != nil {
		ns.Close()
	}
	switch {
	case errors.Is(err, netns.ErrNoProcess), errors.Is(err, netns.ErrExited):
		return nil, ErrEnded
	case err != nil:
		return nil, err
	}
	return &route.Result{Route: ns, Bind: ns.Bind, Listening: ns.WatchListening}, nil
}

// isProcessOf reports whether the process that the engine names is the container's: its cgroup has the container's
// ID, or, where cgroups do not tell, it has begun when the engine says.
func isProcessOf(c found) bool {
	if c.PID <= 0 {
		return false
	}
	if inContainer(fmt.Sprintf("/proc/%d/cgroup", c.PID), c.ID) {
		return true
	}
	stat, err := proc.ReadStat(c.PID)
	if err != nil || stat.Exited() || c.Started.IsZero() {
		return false
	}
	began, err := bootTime()
	if err != nil {
		return false
	}
	began = began.Add(time.Duration(stat.Started) * time.Second / clockTicks)
	// The runtime makes the process a moment before the engine notes the time.
	return c.Started.Sub(began).Abs() < startSlack
}

const (
	clockTicks = 100 // a second: USER_HZ of all of Linux' architectures (proc_pid_stat(5))
	startSlack = 2 * time.Second
)

// bootTime is when this machine started, by its clock of today.
func bootTime() (time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, os.NewSyscallError("clock_gettime", err)
	}
	return time.Now().Add(-time.Duration(up.Nano())), nil
}

// ownNetwork reports whether a runtime keeps a container's network in a kernel of its own: gVisor's and Kata's do.
func ownNetwork(runtime string) bool {
	for _, own := range []string{"runsc", "gvisor", "kata", "kata-runtime"} {
		if strings.Contains(runtime, own) {
			return true
		}
	}
	return false
}
