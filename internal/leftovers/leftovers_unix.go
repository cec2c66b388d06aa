//go:build unix

package leftovers

import (
	"errors"
	"os"
	"path/filepath"
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

// lock locks a list that is there. Errors: errHeld, fs.ErrNotExist.
func lock(name string) (*os.File, error) {
	if _, err := os.Lstat(name); err != nil {
		return nil, err
	}
	return filelock.Acquire(name, 0o600)
}

// release removes a list, and lets go of it.
func release(file *os.File) error { return filelock.Release(file) }

// markOf returns what tells a file from others.
func markOf(path string) (mark, error) {
	if !filepath.IsAbs(path) {
		return mark{}, errors.New("not an absolute path")
	}
	info, err := os.Lstat(path)
	if err != nil {
		return mark{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if mode := info.Mode().Type(); !ok || mode != 0 && mode != os.ModeSocket {
		return mark{}, errors.New("neither a regular file nor a socket")
	}
	return mark{uint64(stat.Dev), stat.Ino, info.ModTime().UnixNano()}, nil //nolint:unconvert // 32 bits on macOS
}
