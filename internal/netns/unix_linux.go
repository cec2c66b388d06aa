package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
)

// dialUnix connects to the Unix socket at a path, as the process sees it: symbolic links lead
// to where they lead inside, and never out of its root. root is a system service elsewhere, so
// it connects as the process' user. A namespace at a path has no files of its own: those are
// this host's. The Conn is a *net.UnixConn; the error a *net.OpError.
func (ns *Namespace) dialUnix(ctx context.Context, path string) (pipe.Conn, error) {
	if ns.process != nil {
		s, err := ns.OpenUnix(path)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		return s.Dial(ctx)
	}
	conn, err := connectUnix(ctx, func(fd int) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	if err != nil {
		return nil, unixError(path, err)
	}
	return conn, nil
}

// UnixSocket is the file of a Unix socket inside a process' root. It stays the one that was
// opened, whatever is at its path later.
type UnixSocket struct {
	process *process
	path    string
	user    *user
	root    *os.File
	file    *os.File
}

// OpenUnix finds the Unix socket at a path, as a process of that OpenPID has opened sees it, and
// as far as the process' user may. The caller closes it. The error is a *net.OpError; it wraps
// ErrExited if the process has.
func (ns *Namespace) OpenUnix(path string) (_ *UnixSocket, err error) {
	s := &UnixSocket{process: ns.process, path: path}
	defer func() {
		if err != nil {
			s.Close()
			err = unixError(path, err)
		}
	}()
	if s.user, err = s.process.user(); err != nil {
		return nil, err
	}
	if s.root, err = s.process.openRoot(); err != nil {
		return nil, err
	}
	if s.file, err = s.open(path, 0); err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err = unix.Fstat(int(s.file.Fd()), &stat); err == nil && stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = unix.ENOTSOCK
	}
	return s, os.NewSyscallError("open", err)
}

// open opens a file inside the root, as the user, without permission to read it (openat2(2),
// since Linux 5.6).
func (s *UnixSocket) open(path string, resolve uint64) (file *os.File, err error) {
	err = s.user.do(func() error {
		fd, err := unix.Openat2(int(s.root.Fd()), path, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve,
		})
		if err != nil {
			return os.NewSyscallError("openat2", err)
		}
		file = os.NewFile(uintptr(fd), path)
		return nil
	})
	return file, err
}

// Dial connects to the socket as the process' user. The Conn is a *net.UnixConn; the error a
// *net.OpError.
func (s *UnixSocket) Dial(ctx context.Context) (pipe.Conn, error) {
	conn, err := connectUnix(ctx, func(fd int) error {
		return s.user.do(func() error { return connectFile(fd, s.file) })
	})
	if err != nil {
		return nil, unixError(s.path, err)
	}
	return conn, nil
}

// Close gives back the descriptors. Connections stay open.
func (s *UnixSocket) Close() {
	for _, f := range []*os.File{s.root, s.file} {
		if f != nil {
			f.Close()
		}
	}
}

func unixError(path string, err error) error {
	return &net.OpError{Op: "connect", Net: "unix", Addr: &net.UnixAddr{Name: path, Net: "unix"}, Err: err}
}

// connectUnix makes a socket and connects it. A full queue is waited for.
func connectUnix(ctx context.Context, connectTo func(fd int) error) (pipe.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "unix")
	defer f.Close()
	var pause backoff.Backoff
	for err = connectTo(fd); errors.Is(err, unix.EAGAIN); err = connectTo(fd) {
		backoff.Sleep(ctx, pause.Next(time.Millisecond, 500*time.Millisecond), nil) // each attempt takes a thread
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil // FileConn looked at the socket
}

// openRoot opens the process' root directory.
func (p *process) openRoot() (*os.File, error) {
	dir, err := p.directory()
	if errors.Is(err, ErrNoProcess) {
		return nil, ErrExited
	}
	if err != nil {
		return nil, err
	}
	root, err := unix.Openat(int(dir.Fd()), "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil && p.exited() {
		return nil, ErrExited // whose root is gone: that is ENOENT too
	}
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(root), "root"), nil
}

// connectFile connects to a socket by its open file.
func connectFile(fd int, file *os.File) error {
	return unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(file.Fd()))})
}

// user is who a process runs as, seen from here.
type user struct {
	uid, gid int
	groups   []int
}

// user returns who the process runs as.
func (p *process) user() (*user, error) {
	dir, err := p.directory()
	if err != nil && !errors.Is(err, ErrNoProcess) {
		return nil, err
	}
	var status []byte
	if err == nil {
		status, err = readBelow(dir, "status")
	}
	if err != nil || p.exited() {
		return nil, ErrExited
	}
	return parseUser(status)
}

// parseUser reads the effective user and groups from a status file (proc_pid_status(5)).
func parseUser(status []byte) (*user, error) {
	u := &user{uid: -1, gid: -1}
	for line := range bytes.Lines(status) {
		key, values, _ := strings.Cut(string(line), ":")
		fields := strings.Fields(values)
		switch {
		case key == "Uid" && len(fields) == 4:
			u.uid, _ = strconv.Atoi(fields[1])
		case key == "Gid" && len(fields) == 4:
			u.gid, _ = strconv.Atoi(fields[1])
		case key == "Groups":
			for _, field := range fields {
				group, err := strconv.Atoi(field)
				if err != nil {
					return nil, fmt.Errorf("malformed groups of a process: %q", values)
				}
				u.groups = append(u.groups, group)
			}
		}
	}
	if u.uid < 0 || u.gid < 0 {
		return nil, errors.New("malformed status of a process")
	}
	return u, nil
}

// do calls f on a thread that is the user's, if this process is root; others stay who they are.
// The thread ends afterwards, rather than that it becomes root's again. It is never the first
// one, which the kernel takes for the whole process.
func (u *user) do(f func() error) error {
	if os.Geteuid() != 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// A goroutine that ends while it is locked takes its thread along.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			result <- u.do(f)
			runtime.UnlockOSThread()
			return
		}
		err := u.become()
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// become makes the calling thread, and no other, the user's. Package unix has these calls only
// for all threads at once.
func (u *user) become() error {
	groups := make([]uint32, len(u.groups)+1) // never empty, for its address
	for i, g := range u.groups {
		groups[i] = uint32(g)
	}
	const same = ^uintptr(0)
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(u.groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, same, uintptr(u.gid), same)
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(u.uid), same)
	}
	if errno != 0 {
		return fmt.Errorf("%w: user %d, group %d: %w", ErrUser, u.uid, u.gid, errno)
	}
	return nil
}
