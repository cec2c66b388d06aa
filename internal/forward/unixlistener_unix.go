//go:build unix

package forward

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lockTime is how long another program's lock of a directory is waited for.
const lockTime = 2 * time.Second

// lockDir keeps other portholes from making a socket in a directory until unlock is called. They
// hold the lock for moments; whoever may read the directory can hold it for longer, and is ignored.
func lockDir(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	// Some file systems have no locks.
	for began := time.Now(); time.Since(began) < lockTime; time.Sleep(10 * time.Millisecond) {
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
	}
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
