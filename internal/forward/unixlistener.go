package forward

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxUnixPath is how long the path of a Unix socket may be (sun_path, unix(7)); macOS has 103.
const maxUnixPath = 107

// The errors of Unix sockets that cannot be listened on.
var (
	// ErrNotSocket means that there is something else than a socket where one is to be made.
	ErrNotSocket = errors.New("there is something else at this path")
	// ErrSocketInUse means that a program listens on the socket already. It is an EADDRINUSE.
	ErrSocketInUse = fmt.Errorf("%w: a program listens on this socket", syscall.EADDRINUSE)
)

// unixListener is a Unix socket that is listened on. Its file goes when it is closed.
type unixListener struct {
	*net.UnixListener
	path string
	file os.FileInfo
}

// listenUnix makes a socket that only this user can connect to. One that a dead process has left
// is replaced, a living one never. Errors: ErrNotSocket, ErrSocketInUse, *net.OpError.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxUnixPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, of %d at most", path, len(path), maxUnixPath)
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	restore := forbidOthers()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	restore()
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the path may be another program's by then; see Close
	u := &unixListener{UnixListener: l, path: path}
	if u.file, err = os.Lstat(path); err != nil {
		l.Close()
		return nil, err
	}
	return u, nil
}

// removeStale removes a socket on which nobody listens.
func removeStale(path string) error {
	old, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case old.Mode().Type() != fs.ModeSocket:
		return ErrNotSocket
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return ErrSocketInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w, as far as can be told: %w", syscall.EADDRINUSE, err)
	}
	return os.Remove(path)
}

// Close implements net.Listener.
func (u *unixListener) Close() error {
	if now, err := os.Lstat(u.path); err == nil && os.SameFile(now, u.file) {
		_ = os.Remove(u.path)
	}
	return u.UnixListener.Close()
}
