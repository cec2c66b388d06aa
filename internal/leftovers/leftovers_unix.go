//go:build unix

package leftovers

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"porthole.dev/porthole/internal/filelock"
)

var errHeld = filelock.ErrHeld

// create makes and locks a list of this process' own.
func create(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// A name that nobody else has; it is only locked once it is there, so that its end is written
	// after that: a list that is found unlocked before has no entries.
	empty, err := os.CreateTemp(dir, "*"+suffix)
	if err != nil {
		return nil, err
	}
	defer empty.Close()
	return filelock.Acquire(empty.Name(), 0o600)
}

// lock locks a list that is there. Errors: errHeld, errForeign, fs.ErrNotExist.
func lock(name string) (*os.File, error) {
	info, err := os.Lstat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || !isMine(info):
		return nil, errForeign
	}
	file, err := filelock.Acquire(name, 0o600)
	if err != nil {
		return nil, err
	}
	if held, err := file.Stat(); err != nil || !os.SameFile(held, info) {
		return nil, errors.Join(errForeign, file.Close())
	}
	return file, nil
}

// release removes a list, and lets go of it.
func release(file *os.File) error { return filelock.Release(file) }

// isMine reports whether a file belongs to the user that this process runs as.
func isMine(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// markIn returns what tells a file from others.
func markIn(info fs.FileInfo) (mark, error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if mode := info.Mode().Type(); !ok || mode != 0 && mode != os.ModeSocket {
		return mark{}, errors.New("neither a regular file nor a socket")
	}
	return mark{uint64(stat.Dev), stat.Ino, info.ModTime().UnixNano()}, nil //nolint:unconvert // 32 bits on macOS
}
