package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/proc"
)

// process holds on to a process, also when its number is given to another one.
// Which of the two files is set depends on the kernel's version.
type process struct {
	kernel kernel
	pid    int

	// pidfd becomes readable at the exit; nil before Linux 5.3.
	pidfd *os.File
	// dir is /proc/PID, opened when setns turned out not to take a pidfd, which
	// it does since Linux 5.8. Once the process is gone the directory leads
	// nowhere, whoever has the number then.
	dir     *os.File
	openDir sync.Mutex
	// reading has room for one who reads a file of the process: see readFile.
	reading chan struct{}
}

// kernel has the system calls that depend on its version. Tests have older ones.
type kernel struct {
	pidfdOpen func(pid, flags int) (int, error)
	setns     func(fd, nstype int) error
}

func runningKernel() kernel { return kernel{unix.PidfdOpen, unix.Setns} }

// exitPoll is how often an exit is looked for where there are no pidfds.
const exitPoll = 200 * time.Millisecond

// openProcess takes hold of a running process. Errors: ErrNoProcess.
func openProcess(k kernel, pid int) (*process, error) {
	p := &process{kernel: k, pid: pid, reading: make(chan struct{}, 1)}
	fd, err := k.pidfdOpen(pid, 0)
	switch {
	case err == nil:
		// PIDFD_NONBLOCK would do it at once, since Linux 5.10. It lets the
		// runtime's poller wait for the exit.
		_ = unix.SetNonblock(fd, true)
		p.pidfd = os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid))
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM): // which old seccomp filters answer
		_, err = p.directory()
	case errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
		// The latter two for a thread's number: only a process is opened.
		err = ErrNoProcess
	default:
		err = os.NewSyscallError("pidfd_open", err)
	}
	if err == nil && p.exited() {
		err = ErrNoProcess // a zombie
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

// directory opens /proc/PID once. Errors: ErrNoProcess.
func (p *process) directory() (*os.File, error) {
	p.openDir.Lock()
	defer p.openDir.Unlock()
	if p.dir != nil {
		return p.dir, nil
	}
	dir, err := os.OpenFile(fmt.Sprintf("/proc/%d", p.pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoProcess
	}
	if err != nil {
		return nil, err
	}
	// The number still was this process' if it has not exited up to here.
	status, err := readBelow(dir, "status")
	if p.pidfd != nil && p.exited() || isGone(err) || err == nil && processOf(status) != p.pid {
		err = ErrNoProcess
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	p.dir = dir
	return dir, nil
}

// enter moves the calling thread into the process' network namespace. Errors:
// ErrExited, ErrPermission.
func (p *process) enter() error {
	if p.pidfd != nil {
		err := p.kernel.setNamespace(p.pidfd)
		if !errors.Is(err, ErrNotNamespace) {
			return err
		}
	}
	ns, err := p.openNetwork()
	if err != nil {
		return err
	}
	defer ns.Close()
	return p.kernel.setNamespace(ns)
}

// openNetwork opens the process' network namespace. Errors: ErrExited, ErrPermission.
func (p *process) openNetwork() (*os.File, error) {
	dir, err := p.directory()
	if errors.Is(err, ErrNoProcess) {
		return nil, ErrExited
	}
	if err != nil {
		return nil, err
	}
	ns, err := openBelow(dir, "ns/net")
	switch {
	case errors.Is(err, os.ErrPermission) && !p.exited():
		return nil, fmt.Errorf("%w: %w", ErrPermission, p.explainAccess(err))
	case isGone(err):
		return nil, ErrExited
	}
	return ns, err
}

// isGone reports whether a process has no such file because it has exited: ESRCH, or ENOENT of a zombie. That there are no
// descriptors, for one, tells nothing of the process.
func isGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

// exited says whether the process has, reaped or not.
func (p *process) exited() bool {
	if p.pidfd != nil {
		gone := true // if the descriptor is closed
		if raw, err := p.pidfd.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { gone = readable(fd) })
		}
		return gone
	}
	stat, err := readBelow(p.dir, "stat")
	if err != nil {
		return isGone(err)
	}
	parsed, err := proc.ParseStat(stat)
	return err != nil || parsed.Exited()
}

// wait returns nil when the process has exited, or ctx' error when that ends first.
func (p *process) wait(ctx context.Context) error {
	if p.pidfd == nil {
		return p.poll(ctx)
	}
	_ = p.pidfd.SetReadDeadline(time.Time{}) // one of an earlier call
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Read(readable); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}

func (p *process) poll(ctx context.Context) error {
	look := time.NewTicker(exitPoll)
	defer look.Stop()
	for !p.exited() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Close gives back the descriptors.
func (p *process) Close() error {
	var errs []error
	for _, f := range []*os.File{p.pidfd, p.dir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// readable reports whether a pidfd is, which means that its process has exited
// (pidfd_open(2)).
func readable(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// processOf is the process that a thread belongs to, by the thread's status file
// (proc_pid_status(5)), or 0. /proc has directories for threads as well.
func processOf(status []byte) (process int) {
	_, rest, _ := bytes.Cut(status, []byte("\nTgid:\t"))
	_, _ = fmt.Sscan(string(rest), &process)
	return process
}

func readBelow(dir *os.File, name string) ([]byte, error) {
	f, err := openBelow(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func openBelow(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
