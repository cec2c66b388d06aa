package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace is a way into a network namespace. Its methods may be called from
// any goroutine; whoever opened it closes it, after the last call has returned.
type Namespace struct {
	home *os.File // the namespace of this process, to come back to

	// One of the two is set. A pidfd follows its process and nothing else,
	// even when the number is used again, and does not keep the namespace
	// alive. A path is opened anew for every entry, so that a namespace
	// made again under its old name is found.
	process *os.File // pidfd
	path    string

	// one lets one thread inside at a time: an entry takes microseconds,
	// and a burst must not make the runtime start a thread for each.
	one sync.Mutex
}

// OpenPID opens the network namespace of a process, and checks that it can be
// entered. Errors: ErrNoProcess, ErrPermission.
func OpenPID(pid int) (*Namespace, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	switch {
	case errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL):
		// EINVAL is a thread's number: a process' namespace goes by its leader.
		return nil, fmt.Errorf("process %d: %w", pid, ErrNoProcess)
	case err != nil:
		return nil, fmt.Errorf("process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	// PIDFD_NONBLOCK lets the runtime's poller wait for the exit.
	ns := &Namespace{process: os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))}
	if err := ns.check(); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return ns, nil
}

// OpenPath opens the network namespace that is bound to a path, such as
// /run/netns/blue or /proc/4947/ns/net, and checks that it can be entered.
// Errors: ErrNotExist, ErrNotNamespace, ErrPermission.
func OpenPath(path string) (*Namespace, error) {
	ns := &Namespace{path: path}
	if err := ns.check(); err != nil {
		return nil, err
	}
	return ns, nil
}

// check completes an opening: it goes in and out once, and closes ns when that fails.
func (ns *Namespace) check() (err error) {
	if ns.home, err = os.Open("/proc/thread-self/ns/net"); err == nil {
		err = ns.Do(func() error { return nil })
	}
	if errors.Is(err, ErrExited) {
		err = ErrNoProcess // it had exited before we came, a zombie
	}
	if err != nil {
		ns.Close()
	}
	return err
}

// Close gives back the descriptors. Connections made through ns go on.
func (ns *Namespace) Close() error {
	var errs []error
	for _, f := range []*os.File{ns.home, ns.process} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Wait returns ErrExited when the process that OpenPID opened exits, or
// ctx' error when that ends first. For a path it only waits for ctx: what is
// at a path may come back.
func (ns *Namespace) Wait(ctx context.Context) error {
	if ns.process == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	stop := context.AfterFunc(ctx, func() { _ = ns.process.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := ns.process.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(exited); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return ErrExited
}

// exited reports whether a pidfd has become readable, pidfd_open(2)'s word for an exit.
func exited(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Do calls f on a thread that is inside the namespace: sockets that f makes
// belong there for good. f must not start goroutines that count on it, nor wait
// for anything: it holds the thread and keeps others out.
//
// If the thread cannot be brought back, Do says so in its error and leaves the
// goroutine locked to it (runtime.LockOSThread), so that the thread ends with
// the goroutine and never runs another.
func (ns *Namespace) Do(f func() error) error {
	ns.one.Lock()
	defer ns.one.Unlock()
	runtime.LockOSThread()
	if err := ns.enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err := f()
	if back := unix.Setns(int(ns.home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave the network namespace: %w", os.NewSyscallError("setns", back)))
	}
	runtime.UnlockOSThread()
	return err
}

// enter moves the calling thread, which is locked, into the namespace.
func (ns *Namespace) enter() error {
	if ns.process != nil {
		return setns(ns.process)
	}
	f, err := os.OpenFile(ns.path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hold us up
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s: %w", ns.path, ErrNotExist)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w", ns.path, ErrPermission)
	case err != nil:
		return err
	}
	defer f.Close()
	if err := setns(f); err != nil {
		return fmt.Errorf("%s: %w", ns.path, err)
	}
	return nil
}

// setns names the errors of setns(2).
func setns(f *os.File) error {
	raw, err := f.SyscallConn() // and not Fd, which would make the descriptor blocking
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return err
	}
	switch {
	case serr == nil:
		return nil
	case errors.Is(serr, unix.ESRCH):
		return ErrExited
	case errors.Is(serr, unix.EPERM):
		return ErrPermission
	case errors.Is(serr, unix.EINVAL) || errors.Is(serr, unix.EBADF):
		return ErrNotNamespace
	}
	return os.NewSyscallError("setns", serr)
}
