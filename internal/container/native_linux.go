package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/cri"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// openNative opens the network namespace of a container's process. The engine may be on another machine, whatever its
// socket looks like, and a number may be another process' by now: what is opened has to be the container's before
// and after. Errors: ErrElsewhere, ErrEnded, those of netns.
func openNative(_ context.Context, c found) (*route.Result, error) {
	if cri.OwnKernelByName(c.Runtime) {
		return nil, fmt.Errorf("%w: %s", ErrOwnNetwork, c.Runtime)
	}
	ns, err := openNamespace(c)
	if err == nil {
		if err = ns.Check(); err != nil {
			ns.Close()
		}
	}
	switch {
	case errors.Is(err, netns.ErrNoProcess), errors.Is(err, netns.ErrExited), errors.Is(err, netns.ErrNotExist):
		return nil, ErrEnded
	case err != nil:
		return nil, err
	}
	result := &route.Result{Route: ns, Bind: ns.Bind, Listening: ns.WatchWithProcesses}
	if c.dialUnix != nil {
		result.Route = inPod{ns, c}
	}
	return result, nil
}

// openNamespace opens it by the process, or else by its path. Errors: ErrElsewhere, those of netns.
func openNamespace(c found) (*netns.Namespace, error) {
	if !isProcessOf(c) {
		if c.NetNS != "" {
			return netns.OpenPath(c.NetNS)
		}
		return nil, ErrElsewhere
	}
	ns, err := netns.OpenPID(c.PID)
	if err == nil && !isProcessOf(c) {
		ns.Close()
		err = netns.ErrNoProcess
	}
	return ns, err
}

// inPod is a Route to a pod's network, and to the Unix sockets of its containers.
type inPod struct {
	route.Route
	found
}

// Dial implements route.Dialer.
func (r inPod) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if to.Network == target.Unix {
		return r.dialUnix(ctx, r.container, to)
	}
	return r.Route.Dial(ctx, to)
}

// isProcessOf reports whether the process that the engine names is the container's: its cgroup has the container's
// ID, or, where cgroups do not tell, it has begun when an engine of this machine says.
func isProcessOf(c found) bool {
	if c.PID <= 0 || c.ID == "" {
		return false
	}
	if inContainer(c.PID, c.ID) || beganWith(c) {
		return true
	}
	id, _ := shimOf(c.PID)
	return id == c.ID
}

// beganWith reports whether a process has begun when an engine of this machine says.
func beganWith(c found) bool {
	stat, err := proc.ReadStat(c.PID)
	if err != nil || stat.Exited() || c.Started.IsZero() || !c.Near {
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

// shimOf returns the ID of the container whose shim of containerd is a process' parent, as it is where containers have no
// cgroups, and the shim's number; "" for none.
func shimOf(pid int) (id string, shim int) {
	stat, err := proc.ReadStat(pid)
	if err != nil {
		return "", 0
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", stat.Parent))
	args := strings.Split(string(line), "\x00")
	if at := slices.Index(args, "-id"); at >= 0 && at+1 < len(args) && strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return args[at+1], stat.Parent
	}
	return "", 0
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
