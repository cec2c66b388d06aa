package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Namespace refers to a network namespace that can be entered. Its methods may be called from
// any goroutine; whoever opened it closes it, after the last call has returned.
type Namespace struct {
	kernel kernel
	home   *os.File // the namespace of this process, to come back to

	// One of the two is set. A process is held by a descriptor, so that its number may
	// be used again, and its namespace is not kept alive. A path is opened
	// anew for every entry, so that a namespace made again under its old
	// name is found.
	process *process
	path    string

	here bool // the namespace is this process' own, and neither of the two is set

	forbidden []ID                    // see Forbid
	refuse    func(a netip.Addr) bool // see RefuseNames

	// entering lets one thread inside at a time: an entry takes microseconds,
	// and a burst must not make the runtime start a thread for each.
	entering sync.Mutex

	// helper makes sockets where this process may not enter; nil until one is needed. entering guards it, and
	// the sockets that it has made too many, by their domain.
	helper *helper
	spares map[int]*spares
	helped atomic.Bool // it has made one, and entering is not tried any more
}

// OpenPID opens the network namespace of a process, without going in. Errors:
// ErrNoProcess, and *ThreadError where the number is a thread's.
func OpenPID(pid int) (*Namespace, error) { return openPID(runningKernel(), pid) }

func openPID(k kernel, pid int) (*Namespace, error) {
	p, err := openProcess(k, pid)
	if errors.Is(err, ErrNoProcess) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if of := processOf(status); of > 0 && of != pid {
			err = &ThreadError{Thread: pid, Process: of}
		}
	}
	if err != nil {
		return nil, err
	}
	return newNamespace(&Namespace{kernel: k, process: p})
}

// OpenPath opens the network namespace that is bound to a path, such as
// /run/netns/blue or /proc/4947/ns/net, without going in. Errors: ErrNotExist,
// ErrNotNamespace, ErrPermission.
func OpenPath(path string) (*Namespace, error) {
	f, err := openNamespace(path)
	if err != nil {
		return nil, err
	}
	f.Close()
	return newNamespace(&Namespace{kernel: runningKernel(), path: path})
}

// Here returns the namespace that this process is in, for which nothing is entered and no permission
// needed. Its names are those of this process' own /etc, its Unix sockets those of its root.
func Here() *Namespace { return &Namespace{here: true} }

// newNamespace completes ns with the way back, or closes it.
func newNamespace(ns *Namespace) (_ *Namespace, err error) {
	// The process' own would be its first thread's, which may have ended elsewhere.
	if ns.home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// Check makes sure that the namespace can be entered, by making a socket there. Errors:
// those of Socket.
func (ns *Namespace) Check() error {
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err == nil {
		err = unix.Close(fd)
	}
	if ns.process != nil && err != nil {
		return fmt.Errorf("process %d: %w", ns.process.pid, err)
	}
	return err
}

// Close gives back the descriptors. Connections made through ns stay open.
func (ns *Namespace) Close() error {
	ns.entering.Lock() // spares are dropped by a timer
	defer ns.entering.Unlock()
	var errs []error
	for domain := range ns.spares {
		ns.dropSpares(domain)
	}
	if ns.helper != nil {
		errs = append(errs, ns.helper.release(false))
	}
	if ns.process != nil {
		errs = append(errs, ns.process.Close())
	}
	if ns.home != nil {
		errs = append(errs, ns.home.Close())
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
	if err := ns.process.wait(ctx); err != nil {
		return err
	}
	return ErrExited
}

// Socket makes a socket that belongs to the namespace for good, as socket(2) does; it does not block, and is closed
// on exec. Where this process may not enter, a helper does: see helperSocket. Errors: those of opening,
// ErrPermission, and an *os.SyscallError.
func (ns *Namespace) Socket(domain, kind, protocol int) (fd int, err error) {
	if !ns.helped.Load() {
		err = ns.Do(func() (err error) {
			fd, err = socket(domain, kind, protocol)
			return err
		})
		if !errors.Is(err, ErrPermission) {
			return fd, err
		}
	}
	return ns.helperSocket(domain, kind, protocol)
}

// socket makes a socket in the network namespace of the calling thread.
func socket(domain, kind, protocol int) (fd int, err error) {
	fd, err = unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	return fd, os.NewSyscallError("socket", err)
}

// Do calls f on a thread that is inside the namespace: sockets that f makes
// belong there for good. f must not start goroutines that rely on being inside, nor wait
// for anything: it holds the thread and keeps others out.
//
// A thread that cannot come back ends. That happens to those who have entered a
// user namespace by hand (nsenter -U): they may enter the network namespaces that
// belong to it, and not their own again (setns(2)).
func (ns *Namespace) Do(f func() error) error {
	if ns.here {
		return f()
	}
	ns.entering.Lock()
	defer ns.entering.Unlock()
	result := make(chan error, 1)
	go func() {
		// A goroutine that ends while it is locked takes its thread along.
		runtime.LockOSThread()
		var err error
		if ns.process != nil {
			err = ns.process.enter()
		} else {
			err = ns.enterPath()
		}
		if err == nil {
			if len(ns.forbidden) > 0 {
				err = ns.checkForbidden()
			}
			if err == nil {
				err = f()
			}
			if ns.kernel.setns(int(ns.home.Fd()), unix.CLONE_NEWNET) != nil {
				result <- err
				return
			}
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

// enterPath moves the calling thread, which is locked, into the namespace at ns.path.
func (ns *Namespace) enterPath() error {
	f, err := openNamespace(ns.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ns.kernel.setNamespace(f); err != nil {
		return fmt.Errorf("%s: %w", ns.path, err)
	}
	return nil
}

// openNamespace opens the file of a namespace, of whatever kind.
func openNamespace(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a FIFO must not block
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s: %w", path, ErrNotExist)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: %w", path, ErrPermission)
	case err != nil:
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, ErrNotNamespace)
	}
	return f, nil
}

// setNamespace moves the calling thread, which is locked, into the network namespace of
// a file, and names the errors of setns(2).
func (k kernel) setNamespace(f *os.File) error {
	raw, err := f.SyscallConn() // and not Fd, which would make the descriptor blocking
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = k.setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return err
	}
	switch {
	case errors.Is(failed, unix.ESRCH):
		return ErrExited
	case errors.Is(failed, unix.EPERM):
		return ErrPermission
	case errors.Is(failed, unix.EINVAL) || errors.Is(failed, unix.EBADF):
		return ErrNotNamespace
	}
	return os.NewSyscallError("setns", failed)
}
