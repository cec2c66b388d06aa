package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"time"

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
	kind, err := kindOf(s.file)
	if err == nil && kind != unix.S_IFSOCK {
		err = os.NewSyscallError("open", unix.ENOTSOCK)
	}
	return s, err
}

// open opens a file inside the root, as the user, without permission to read it.
func (s *UnixSocket) open(path string, resolve uint64) (file *os.File, err error) {
	err = s.user.do(func() error {
		file, err = openInRoot(s.root, path, resolve)
		return err
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

// connectFile connects to a socket by its open file.
func connectFile(fd int, file *os.File) error {
	return unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(file.Fd()))})
}
