package netns

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// helperSocket makes a socket where this process may not enter the namespace. Whoever made a user namespace has all
// capabilities over it, and over the network namespaces that belong to it, but only once inside (user_namespaces(7)),
// where no program in Go gets: so a helper joins it. Otherwise an installed helper may have the capabilities.
func (ns *Namespace) helperSocket(domain, kind, protocol int) (fd int, err error) {
	ns.entering.Lock()
	defer ns.entering.Unlock()
	if fd, ok := ns.takeSpare(domain, kind); ok {
		return fd, nil
	}
	where, err := ns.open()
	if err == nil {
		defer where.Close()
		fd, err = ns.ownSocket(where, domain, kind, protocol)
	}
	if errors.Is(err, ErrPermission) {
		fd, err = ns.installedSocket(where, domain, kind, protocol, err)
	}
	ns.helped.Store(err == nil)
	return fd, err
}

// open opens the namespace's file. Errors: those of opening, and ErrPermission.
func (ns *Namespace) open() (*os.File, error) {
	if ns.process != nil {
		return ns.process.openNetwork()
	}
	return openNamespace(ns.path)
}

// ownSocket makes a socket in a namespace that is this process' own, or belongs to a user namespace that a
// helper may join.
func (ns *Namespace) ownSocket(where *os.File, domain, kind, protocol int) (int, error) {
	network, err := identify(where)
	if err != nil {
		return -1, err
	}
	if slices.Contains(ns.forbidden, network) {
		return -1, ErrForbidden
	}
	if home, err := identify(ns.home); err != nil || network == home {
		return socket(domain, kind, protocol) // a process of this host's own network
	}
	user, err := ownerOf(where)
	if err != nil {
		return -1, err
	}
	defer user.Close()
	id, err := identify(user)
	if err != nil {
		return -1, err
	}
	count := ns.sparesWanted(domain, kind)
	fds, err := ns.ask(id, func() (*helper, error) { return startHelper(user) }, where, domain, kind, protocol, count)
	if errors.Is(err, ErrPermission) {
		err = fmt.Errorf("%w: %s", ErrPermission, describeOwner(user))
	}
	if err != nil {
		return -1, err
	}
	ns.keepSpares(domain, kind, network, fds[1:])
	return fds[0], nil
}

// installedSocket makes a socket by the helper that is installed, or returns why else there is none. That helper
// finds the namespace of a process by itself, since this process may not open it.
func (ns *Namespace) installedSocket(where *os.File, domain, kind, protocol int, cause error) (int, error) {
	path := installedHelper()
	if path == "" || len(ns.forbidden) > 0 {
		return -1, cause
	}
	if ns.process != nil {
		where = ns.process.pidfd
	}
	if where == nil {
		return -1, cause
	}
	fds, err := ns.ask(ID{}, func() (*helper, error) { return runHelper(path) }, where, domain, kind, protocol, 1)
	if errors.Is(err, errNoPrivileges) {
		err = cause
	}
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// ask asks the helper in a user namespace for sockets, and starts one if there is none, or it has ended.
func (ns *Namespace) ask(user ID, start func() (*helper, error), where *os.File, domain, kind, protocol, count int) (fds []int, err error) {
	for range 2 {
		if ns.helper != nil && ns.helper.user != user {
			ns.stopHelper(false)
		}
		if ns.helper == nil {
			if ns.helper, err = helperOf(user, start); err != nil {
				return nil, err
			}
		}
		if fds, err = ns.helper.sockets(where, domain, kind, protocol, count); !errors.Is(err, errHelperEnded) {
			break
		}
		ns.stopHelper(true)
	}
	return fds, err
}

func (ns *Namespace) stopHelper(useless bool) {
	_ = ns.helper.release(useless)
	ns.helper = nil
}

// ownerOf opens the user namespace that a network namespace belongs to (ioctl_ns(2)), if that is one below this
// process' own.
func ownerOf(network *os.File) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(network.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%w: it belongs to a user namespace outside of porthole's", ErrPermission)
	}
	if err != nil {
		return nil, os.NewSyscallError("ioctl NS_GET_USERNS", err)
	}
	user := os.NewFile(uintptr(fd), "user namespace")
	own, failed := IDOf("/proc/thread-self/ns/user")
	if id, err := identify(user); failed != nil || err != nil || id == own {
		user.Close()
		return nil, fmt.Errorf("%w: it belongs to the same user namespace as porthole, in which porthole lacks the capability SYS_ADMIN", ErrPermission)
	}
	return user, nil
}

// describeOwner says whose a user namespace is that may not be joined.
func describeOwner(user *os.File) string {
	owner, err := unix.IoctlGetInt(int(user.Fd()), unix.NS_GET_OWNER_UID)
	if err != nil {
		return "it belongs to a user namespace of somebody else"
	}
	return fmt.Sprintf("it belongs to a user namespace of user %d, and porthole runs as user %d", uint32(owner), os.Geteuid())
}
