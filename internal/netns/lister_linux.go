package netns

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/target"
)

// lister lists the sockets of a namespace, again and again. Entering it takes longer than a list, so the netlink(7)
// socket is kept, which keeps the namespace alive: if that is no longer where ns leads, the next look lets go of it.
type lister struct {
	ns      *Namespace
	fd      int // -1 for none
	network ID  // that fd lists
	buffer  []byte

	looks   int             // by fd
	others  []target.Socket // than those of TCP, as they were listed last
	missing error           // why not all of them are listed
}

// newLister returns a lister that has entered nothing yet. Whoever has it closes it.
func newLister(ns *Namespace) *lister {
	return &lister{ns: ns, fd: -1, buffer: make([]byte, dumpBuffer)}
}

// look returns what listens: those of TCP now, and others at the first look and each seldomLooks later. Errors: see Listening.
func (l *lister) look() ([]target.Socket, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	sockets, err := l.list(true, ErrNoSockDiag)
	if err == nil && l.looks%seldomLooks == 0 {
		if l.others, l.missing = l.list(false, ErrNotListed); !errors.Is(l.missing, ErrNotListed) {
			err = l.missing
		}
	}
	if err != nil {
		l.close() // an answer may be left in it
		return nil, err
	}
	l.looks++
	sockets = append(sockets, l.others...)
	slices.SortFunc(sockets, target.CompareSockets)
	return sockets, l.missing
}

// enter makes sure that there is a socket, and that it is in the namespace that l.ns leads to now.
func (l *lister) enter() error {
	// A namespace that replaces this one later is seen at the next look.
	// Who may not see which one it is, and has an installed helper enter it, enters it at each look, and lists everything.
	network, idErr := l.ns.ID()
	if l.fd >= 0 && idErr == nil && network == l.network {
		return nil
	}
	l.close()
	fd, err := l.ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, sockDiag)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		err = fmt.Errorf("%w (CONFIG_INET_DIAG): %w", ErrNoSockDiag, err)
	}
	if err != nil {
		return err
	}
	// The kernel has an answer ready whenever one is read, so that no thread is held for long.
	err = os.NewSyscallError("fcntl", unix.SetNonblock(fd, false))
	if err == nil {
		err = os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: dumpTime}))
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	l.fd, l.network, l.looks = fd, network, 0
	return nil
}

// list lists the sockets of TCP, or the others. The error wraps unlisted, with the sockets that are listed, if the kernel
// lacks a module.
func (l *lister) list(tcp bool, unlisted error) (sockets []target.Socket, err error) {
	var missing []string
	for _, d := range dumps {
		if (d.module == tcpModule) != tcp {
			continue
		}
		some, err := d.list(l.fd, l.buffer)
		if errors.Is(err, unix.ENOENT) {
			missing = append(missing, d.module)
			continue
		}
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, some...)
	}
	if missing = slices.Compact(missing); len(missing) > 0 {
		err = fmt.Errorf("%w: it lacks the module %s", unlisted, strings.Join(missing, " and "))
	}
	return sockets, err
}

// close lets go of the namespace.
func (l *lister) close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
	}
	l.fd = -1
}
