package netns

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// IDOf returns the ID of the namespace that a path leads to, such as /proc/1/ns/net, or of
// another file.
func IDOf(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return ID{st.Dev, st.Ino}, nil
}

// Forbid makes every later entry into one of these namespaces fail with ErrForbidden,
// and every entry that cannot be compared with them. Each entry is checked once inside,
// since what a path or a process leads to may change. Call it before others use ns.
func (ns *Namespace) Forbid(ids ...ID) { ns.forbidden = ids }

// checkForbidden says whether the calling thread, which has entered, may be where it is.
func (ns *Namespace) checkForbidden() error {
	id, err := IDOf("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	if slices.Contains(ns.forbidden, id) {
		return ErrForbidden
	}
	return nil
}
