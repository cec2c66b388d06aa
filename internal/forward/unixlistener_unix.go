//go:build unix

package forward

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// lockDir keeps other portholes from making a socket in a directory until unlock is called.
func lockDir(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	_ = unix.Flock(int(dir.Fd()), unix.LOCK_EX) // some file systems have no locks
	return func() { dir.Close() }, nil
}

// umask is the process' own, so one at a time changes it.
var umask sync.Mutex

// forbidOthers makes files that this process creates the user's own until restore is called.
func forbidOthers() (restore func()) {
	umask.Lock()
	old := unix.Umask(0o177)
	return func() { unix.Umask(old); umask.Unlock() }
}
