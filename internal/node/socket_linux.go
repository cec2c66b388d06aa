package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/filelock"
)

// socket listens on a Unix socket that belongs to root alone. It holds a lock
// beside the socket's file, PATH.lock, which the kernel drops however the process
// ends, so that two processes that start at once cannot both replace a stale socket.
type socket struct {
	*net.UnixListener
	path string
	lock *os.File
}

// listenEndpoint is listenSocket for an address unix:///PATH.
func listenEndpoint(endpoint string) (*socket, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	return listenSocket(path)
}

// listenSocket listens on the socket at path, in place of one whose process is
// gone. Errors: ErrInUse, ErrNotSocket, ErrFolder.
func listenSocket(path string) (*socket, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w: %w", path, ErrFolder, err)
	}
	lock, err := filelock.Acquire(path+".lock", 0o600)
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, fmt.Errorf("listen on %s: %w", path, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w: %w", path, ErrFolder, err)
	}
	l, err := listenUnix(path)
	for end := time.Now().Add(takeOverTime); errors.Is(err, ErrInUse) && time.Now().Before(end); l, err = listenUnix(path) {
		time.Sleep(takeOverTime / 100)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), filelock.Release(lock))
	}
	return &socket{UnixListener: l, path: path, lock: lock}, nil
}

// Close removes the socket's file and gives up the lock.
func (s *socket) Close() error {
	err := s.UnixListener.Close() // which removes the file that it made
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return errors.Join(err, filelock.Release(s.lock))
}

func listenUnix(path string) (*net.UnixListener, error) {
	if err := clearStale(path); err != nil {
		return nil, err
	}
	// The mode of the socket becomes that of its file (unix_bind in the
	// kernel), so that there is no moment at which others may connect.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFolder, err)
	}
	return l.(*net.UnixListener), nil
}

// takeOverTime is how long a socket may still be held by the data path of a node that was
// killed, which the kernel ends a moment later.
const takeOverTime = 2 * time.Second

// clearStale removes the socket of a process that is gone, and nothing else.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", ErrFolder, err)
	case info.Mode().Type() != os.ModeSocket:
		return ErrNotSocket
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
		return ErrInUse
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w: %w", ErrInUse, err) // for instance, its queue is full
	}
	return os.Remove(path)
}

// socketPair makes a pair of connected sockets: one to use here, one to give away.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), far, nil
}
