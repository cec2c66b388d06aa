package agent

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Protect keeps other processes of the same user, which in a shared process namespace may be anybody's,
// from this one's memory and open files, and so from its key and its log (PR_SET_DUMPABLE, prctl(2)).
func Protect() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("agent: protect this process: prctl: %w", err)
	}
	return nil
}
