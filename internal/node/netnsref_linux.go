package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// nodeNamespace is the node's own network namespace: the kubelet reaches this
// process on its loopback. A thread that opens it is not in a pod at the time.
const nodeNamespace = "/proc/thread-self/ns/net"

// netnsRef says where a sandbox's network namespace is found. It holds nothing open, so
// that a forward which is never used leaves nothing behind.
type netnsRef struct {
	path    string // that the namespace is bound to, and that is removed with the sandbox; or ""
	pid     int    // of a process in it; 0 if unknown
	started uint64 // when that process began
}

// netnsOfProcess refers to the namespace of a process that the runtime gives by its
// number.
func netnsOfProcess(sandbox string, pid int) (netnsRef, error) {
	stat, err := proc.ReadStat(pid)
	if err != nil {
		return netnsRef{}, notRunning(sandbox)
	}
	return netnsRef{pid: pid, started: stat.Started}, nil
}

// open opens the namespace, without going in; it will not go into a forbidden one, whatever
// the runtime says of the pod. The error wraps tunnel.ErrNoSandbox if the namespace
// is gone; the caller closes it.
func (r netnsRef) open(forbidden []netns.ID) (ns *netns.Namespace, err error) {
	if r.path == "" {
		ns, err = r.openProcess()
	} else if ns, err = netns.OpenPath(r.path); err != nil {
		err = markGone(err)
		if r.pid != 0 {
			// Not all mounts of the host arrive in this process' own mount
			// namespace, while all its processes are seen.
			if byProcess, failed := r.openProcess(); failed == nil {
				ns, err = byProcess, nil
			}
		}
	}
	if err == nil {
		ns.Forbid(forbidden...)
	}
	return ns, err
}

// openProcess opens the namespace of the process.
func (r netnsRef) openProcess() (*netns.Namespace, error) {
	ns, err := netns.OpenPID(r.pid)
	if err != nil {
		return nil, markGone(err)
	}
	// ns is bound to one process from here on. If that is not the one that
	// has the number now, it has exited, and ns leads nowhere.
	if stat, err := proc.ReadStat(r.pid); err != nil || stat.Started != r.started {
		ns.Close()
		return nil, markGone(fmt.Errorf("process %d: %w", r.pid, netns.ErrExited))
	}
	return ns, nil
}

// bind listens in the namespace, which it does not hold open.
func (r netnsRef) bind(ctx context.Context, at target.Endpoint, forbidden []netns.ID) (*route.Listener, error) {
	ns, err := r.open(forbidden)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	l, err := ns.Bind(ctx, at)
	if err != nil {
		return nil, err
	}
	l.Socket = func(domain, kind, protocol int) (int, error) {
		ns, err := r.open(forbidden)
		if err != nil {
			return -1, err
		}
		defer ns.Close()
		return ns.Socket(domain, kind, protocol)
	}
	return l, nil
}

// check makes sure of the namespace for a program that enters it by the process' number,
// or by the path if there is none, and that it is not a forbidden one.
func (r netnsRef) check(forbidden []netns.ID) error {
	if r.pid != 0 {
		r.path = ""
	}
	ns, err := r.open(forbidden)
	if err != nil {
		return err
	}
	defer ns.Close()
	return entryError(ns.Do(func() error { return nil }))
}

// gone says whether nothing is left of a sandbox by which its namespace could be entered.
// What cannot be found out counts as there.
func (r netnsRef) gone() bool {
	if r.path != "" && isNamespace(r.path) {
		return false
	}
	if r.pid == 0 {
		return r.path != ""
	}
	stat, err := proc.ReadStat(r.pid)
	return errors.Is(err, os.ErrNotExist) || err == nil && stat.Started != r.started
}

// isNamespace says whether a file stands for a namespace: when that is taken down, the
// file may stay for a moment, without what was mounted on it.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	switch err := unix.Statfs(path, &fs); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false
	case err != nil:
		return true
	}
	return fs.Type == unix.NSFS_MAGIC || fs.Type == unix.PROC_SUPER_MAGIC
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
func (e goneError) Unwrap() []error { return []error{tunnel.ErrNoSandbox, e.error} }

// markGone makes a goneError of the errors that mean that.
func markGone(err error) error {
	// The file of a namespace that was taken down may still be there for a moment.
	for _, sign := range []error{netns.ErrNotExist, netns.ErrNotNamespace, netns.ErrExited, netns.ErrNoProcess} {
		if errors.Is(err, sign) {
			return goneError{err}
		}
	}
	return err
}

// entryError explains why a namespace that was opened cannot be entered.
func entryError(err error) error {
	if errors.Is(err, netns.ErrForbidden) {
		return errHostNetwork
	}
	return markGone(err)
}
