//go:build unix

// Package filelock holds a lock as long as a process lives, by a file that is removed with it.
// It must not know what the lock is for.
package filelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld means that another process has the lock.
var ErrHeld = errors.New("the lock is held")

// Acquire makes the file if there is none and locks it, without waiting. The kernel
// drops the lock when the process ends, however it ends; programs that the process
// starts do not inherit it. Errors: ErrHeld, *os.PathError, *os.SyscallError.
func Acquire(path string, mode os.FileMode) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, mode)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrHeld
			}
			return nil, os.NewSyscallError("flock", err)
		}
		if isAt(file, path) {
			return file, nil
		}
		file.Close() // its holder removed it between open and lock
	}
}

// Release removes the file before it lets go of the lock, so that nobody locks a file
// that is about to be removed.
func Release(file *os.File) error {
	return errors.Join(os.Remove(file.Name()), file.Close())
}

func isAt(file *os.File, path string) bool {
	named, err := os.Lstat(path)
	if err != nil {
		return false
	}
	held, err := file.Stat()
	return err == nil && os.SameFile(named, held)
}
