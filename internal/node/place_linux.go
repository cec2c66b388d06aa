package node

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/portforward"
)

// nodeNamespace is the node's own network namespace: the kubelet reaches this
// process on its loopback. A thread that opens it is not in a pod at the time.
const nodeNamespace = "/proc/thread-self/ns/net"

// place is where a sandbox's network namespace is found. Nothing is held open for
// it, so that one that nobody comes for leaves nothing behind.
type place struct {
	path    string // that the namespace is bound to, and that goes with the sandbox; or ""
	pid     int    // of a process in it; 0 if unknown
	started uint64 // when that process began
}

// open opens the namespace, without going in. The error wraps
// portforward.ErrNoSandbox if the namespace is gone; the caller closes it.
func (p place) open() (*netns.Namespace, error) {
	if p.path == "" {
		return p.openProcess()
	}
	ns, err := netns.OpenPath(p.path)
	if err != nil && p.pid != 0 {
		// Mounts do not come in here from everywhere, while processes do:
		// this one may run in a mount namespace that is not the host's.
		if byProcess, err := p.openProcess(); err == nil {
			return byProcess, nil
		}
	}
	return ns, gone(err)
}

// openExcept is open for who must not enter the forbidden namespaces: each entry is
// looked at, whatever the runtime tells of the pod.
func (p place) openExcept(forbidden []netns.ID) (*netns.Namespace, error) {
	ns, err := p.open()
	if err == nil {
		ns.Forbid(forbidden...)
	}
	return ns, err
}

// denied gives the refusal of a forbidden namespace the policy's words.
func denied(err error) error {
	if errors.Is(err, netns.ErrForbidden) {
		return errHostNetwork
	}
	return err
}

// openProcess enters by the process' number.
func (p place) openProcess() (*netns.Namespace, error) {
	ns, err := netns.OpenPID(p.pid)
	if err != nil {
		return nil, gone(err)
	}
	// ns is bound to one process from here on. If that is not the one that
	// has the number now, it has exited, and ns leads nowhere.
	if started, err := startTime(p.pid); err != nil || started != p.started {
		ns.Close()
		return nil, gone(fmt.Errorf("process %d: %w", p.pid, netns.ErrExited))
	}
	return ns, nil
}

// check makes sure of the namespace for who enters by the process' number, or by
// the path if there is none, and that it is not a forbidden one.
func (p place) check(forbidden []netns.ID) error {
	if p.pid != 0 {
		p.path = ""
	}
	ns, err := p.openExcept(forbidden)
	if err != nil {
		return err
	}
	defer ns.Close()
	return gone(denied(ns.Do(func() error { return nil })))
}

// hostNamespaces are the network namespaces of the node: this process' own, on whose
// loopback the kubelet reaches it, and that of the first process.
func hostNamespaces() ([]netns.ID, error) {
	own, err := netns.IDOf(nodeNamespace)
	if err != nil {
		return nil, err
	}
	hosts := []netns.ID{own}
	if first, err := netns.IDOf("/proc/1/ns/net"); err == nil { // else /proc is not the host's
		hosts = append(hosts, first)
	}
	return hosts, nil
}

// goneError is what happened to a namespace that was there before.
type goneError struct{ error }

func (e goneError) Error() string   { return "the pod's network namespace is gone: " + e.error.Error() }
func (e goneError) Unwrap() []error { return []error{portforward.ErrNoSandbox, e.error} }

// gone marks the errors that mean that.
func gone(err error) error {
	// The file of a namespace that was taken down may still be there for a moment.
	for _, sign := range []error{netns.ErrNotExist, netns.ErrNotNamespace, netns.ErrExited, netns.ErrNoProcess} {
		if errors.Is(err, sign) {
			return goneError{err}
		}
	}
	return err
}

// startTime is when a process began, in clock ticks since the boot: with the
// number it names one process for good.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command in parentheses may have anything in it (proc_pid_stat(5)).
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const starttime = 22 - 3 // the first field here is the third
	if len(fields) <= starttime {
		return 0, fmt.Errorf("process %d: malformed stat", pid)
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}
