package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/proc"
)

// Mount is what a file inside a process' root lies on.
type Mount struct {
	proc.Mount
	// IsRoot says that it is the root of the process' mount namespace, and not only that of a
	// process which has changed its root.
	IsRoot bool
	// Top tells its topmost file from others, if it is not the root: the device and inode.
	Top ID
}

// Mount returns what the socket lies on. It is found by the open file itself: what is at its
// path, or at the mount's, may have changed since. The error wraps ErrMount if that cannot be
// found any more, as with a mount that the process does not see.
func (s *UnixSocket) Mount() (m Mount, err error) {
	id, err := mountOf(s.file)
	if err != nil {
		return m, err
	}
	if m.Mount, err = s.process.mount(id); err != nil {
		return m, err
	}
	root, err := mountOf(s.root)
	if err != nil {
		return m, err
	}
	if id == root {
		m.IsRoot, err = isTop(s.root)
		return m, err
	}
	top, err := s.open(m.Point, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrMount, err)
	}
	defer top.Close()
	if covered, err := mountOf(top); err != nil || covered != id {
		return m, fmt.Errorf("%w: there is another mount at %s", ErrMount, m.Point)
	}
	m.Top, err = identify(top)
	return m, err
}

// mount finds a mount among those of the process.
func (p *process) mount(id uint64) (m proc.Mount, err error) {
	dir, err := p.directory()
	if err != nil {
		return m, err
	}
	list, err := readBelow(dir, "mountinfo")
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrMount, err)
	}
	all, err := proc.ParseMounts(list)
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrMount, err)
	}
	for _, m := range all {
		if m.ID == id {
			return m, nil
		}
	}
	return m, fmt.Errorf("%w: it is not among the process' own", ErrMount)
}

// mountOf returns the number of the mount that an open file is on, which no other mount gets
// while the file is open (statx(2), since Linux 5.8).
func mountOf(f *os.File) (id uint64, err error) {
	var x unix.Statx_t
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &x)
	if err == nil && x.Mask&unix.STATX_MNT_ID == 0 {
		err = unix.ENOSYS
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrMount, os.NewSyscallError("statx", err))
	}
	return x.Mnt_id, nil
}

// isTop reports whether there is nothing above a directory: of the roots of processes, that is
// so for the root of a mount namespace, and for none that chroot(2) has made.
func isTop(dir *os.File) (bool, error) {
	fd, err := unix.Openat(int(dir.Fd()), "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrMount, os.NewSyscallError("openat", err))
	}
	above := os.NewFile(uintptr(fd), "..")
	defer above.Close()
	one, err := identify(dir)
	if err != nil {
		return false, err
	}
	other, err := identify(above)
	if err != nil {
		return false, err
	}
	mount, err := mountOf(dir)
	if err != nil {
		return false, err
	}
	mountAbove, err := mountOf(above)
	return one == other && mount == mountAbove, err
}

func identify(f *os.File) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ID{}, os.NewSyscallError("fstat", err)
	}
	return ID{st.Dev, st.Ino}, nil
}
