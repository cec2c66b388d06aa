package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// user is who a process runs as, seen from here.
type user struct {
	uid, gid int
	groups   []int
	// capabilities are the effective ones of root, in this process' user namespace.
	capabilities uint64
}

// user returns who the process runs as.
func (p *process) user() (*user, error) {
	dir, err := p.directory()
	if err != nil && !errors.Is(err, ErrNoProcess) {
		return nil, err
	}
	var status []byte
	if err == nil {
		status, err = readBelow(dir, "status")
	}
	if errors.Is(err, ErrNoProcess) || isGone(err) || p.exited() {
		return nil, ErrExited
	}
	if err != nil {
		return nil, err
	}
	u, err := parseUser(status)
	if err != nil {
		return nil, err
	}
	// In a user namespace of its own it has capabilities over what belongs to that, and not here.
	here, err := IDOf("/proc/thread-self/ns/user")
	if there, failed := p.userNamespace(); err != nil || failed != nil || there != here {
		u.capabilities = 0
	}
	return u, nil
}

// UserNamespace returns the user namespace of a process that OpenPID has opened. The error wraps
// ErrExited if the process has.
func (ns *Namespace) UserNamespace() (ID, error) { return ns.process.userNamespace() }

// userNamespace returns the process' user namespace. The error wraps ErrExited if it has.
func (p *process) userNamespace() (ID, error) {
	dir, err := p.directory()
	if err != nil {
		return ID{}, err
	}
	user, err := openBelow(dir, "ns/user")
	if err != nil {
		if p.exited() {
			err = ErrExited
		}
		return ID{}, err
	}
	defer user.Close()
	return identify(user)
}

// parseUser reads the effective user, groups and capabilities from a status file (proc_pid_status(5)).
func parseUser(status []byte) (*user, error) {
	u := &user{uid: -1, gid: -1}
	for line := range bytes.Lines(status) {
		key, values, _ := strings.Cut(string(line), ":")
		fields := strings.Fields(values)
		switch {
		case key == "Uid" && len(fields) == 4:
			u.uid, _ = strconv.Atoi(fields[1])
		case key == "Gid" && len(fields) == 4:
			u.gid, _ = strconv.Atoi(fields[1])
		case key == "CapEff" && len(fields) == 1:
			u.capabilities, _ = strconv.ParseUint(fields[0], 16, 64)
		case key == "Groups":
			for _, field := range fields {
				group, err := strconv.Atoi(field)
				if err != nil {
					return nil, fmt.Errorf("malformed groups of a process: %q", values)
				}
				u.groups = append(u.groups, group)
			}
		}
	}
	if u.uid < 0 || u.gid < 0 {
		return nil, errors.New("malformed status of a process")
	}
	return u, nil
}

// do calls f on a thread that has become the user, if this process is root; otherwise it just
// calls f. The thread ends afterwards, so that nothing of the user stays with it. It is never the
// process' first thread, whose user the kernel shows as the process' own.
func (u *user) do(f func() error) error {
	if os.Geteuid() != 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// A goroutine that ends while it is locked takes its thread along.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			result <- u.do(f)
			runtime.UnlockOSThread()
			return
		}
		err := u.become()
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// become makes the calling thread, and no other, the user's. Package unix has these calls only
// for all threads at once.
func (u *user) become() error {
	groups := make([]uint32, len(u.groups)+1) // never empty, for its address
	for i, g := range u.groups {
		groups[i] = uint32(g)
	}
	const same = ^uintptr(0)
	var errno unix.Errno
	// A thread that has these groups already needs no capability.
	if now, err := unix.Getgroups(); err != nil || !slices.Equal(now, u.groups) {
		_, _, errno = unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(u.groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, same, uintptr(u.gid), same)
	}
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(u.uid), same)
	}
	if errno != 0 {
		return fmt.Errorf("%w: user %d, group %d: %w", ErrUser, u.uid, u.gid, errno)
	}
	if u.uid == 0 { // the kernel has taken all capabilities of others
		return keepCapabilities(u.capabilities)
	}
	return nil
}

// keepCapabilities takes all capabilities but some from the calling thread (capset(2)).
func keepCapabilities(some uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range data {
		kept := data[i].Effective & uint32(some>>(32*i))
		data[i] = unix.CapUserData{Effective: kept, Permitted: kept}
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &data[0]))
}
