package demo

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// dropPrivileges makes this thread, and what it executes, an unprivileged
// user for good. The bounding set goes first: dropping from it needs a
// capability. In a user namespace there may be no other user to become: its
// root is left, which has no capabilities any more.
func dropPrivileges(change bool) error {
	if err := dropBoundingSet(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if !change {
		return nil
	}
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("drop groups: %w", err)
	}
	if err := unix.Setresgid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("change group: %w", err)
	}
	if err := unix.Setresuid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("change user: %w", err)
	}
	return nil
}

// dropBoundingSet counts up until the kernel knows no further capability:
// there may be more of them than when this was compiled.
func dropBoundingSet() error {
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
}
