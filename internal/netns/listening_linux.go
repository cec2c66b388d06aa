package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
)

const (
	// lookTime is the time between two looks at what listens. What is new is told within a second; to look more often
	// costs more, for to wake this process takes about as long as the look.
	lookTime = 800 * time.Millisecond
	// seldomLooks is how many of them there are to one that lists all: the others list TCP only.
	seldomLooks = 12
	// dumpBuffer is how much of a list comes at once: the kernel fills 32 KiB at most.
	dumpBuffer = 64 << 10
)

// Listening returns what can be connected to in the namespace, sorted by target.CompareSockets: TCP sockets that
// listen, UDP sockets that are bound and not connected, and Unix sockets that listen at a path, which is one
// of the program's that made them. It does not look for their processes; see NameProcesses.
// Errors: those of Socket, ErrNoSockDiag, and ErrNotListed with the sockets that the kernel does list.
func (ns *Namespace) Listening() ([]target.Socket, error) {
	l := newLister(ns)
	defer l.close()
	return l.look()
}

// shortages pass: of descriptors, as when this program has many connections, of memory, and of time.
var shortages = []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN}

// WatchListening tells what Listening returns, at first and whenever it has changed, until ctx ends or the namespace
// cannot be entered: of TCP within a second, and of others within ten. Where there is none at a path for now, nothing
// listens; what is short for now, such as descriptors, changes nothing. The error is why the namespace cannot be
// entered, or the context's, or in its place ErrNotListed.
func (ns *Namespace) WatchListening(ctx context.Context, tell func([]target.Socket)) error {
	look := time.NewTicker(lookTime)
	defer look.Stop()
	l := newLister(ns)
	defer l.close()
	for last, first := []target.Socket(nil), true; ; first = false {
		now, err := l.look()
		switch {
		case err == nil, errors.Is(err, ErrNotListed):
		case !first && (errors.Is(err, ErrNotExist) || errors.Is(err, ErrNotNamespace)):
			now = nil
		case !first && slices.ContainsFunc(shortages, func(passing error) bool { return errors.Is(err, passing) }):
			now = last
		default:
			return err
		}
		if first || !slices.Equal(now, last) {
			tell(slices.Clone(now))
		}
		last = now
		select {
		case <-look.C:
		case <-ctx.Done():
			if errors.Is(err, ErrNotListed) {
				return err
			}
			return context.Cause(ctx)
		}
	}
}

// WatchWithProcesses is WatchListening, and names the processes too.
func (ns *Namespace) WatchWithProcesses(ctx context.Context, tell func([]target.Socket)) error {
	return ns.WatchListening(ctx, func(now []target.Socket) {
		if id, err := ns.ID(); err == nil {
			NameProcesses(now, id)
		}
		tell(now)
	})
}

// ID returns the namespace's ID, as it is now.
func (ns *Namespace) ID() (ID, error) {
	switch {
	case ns.here:
		return IDOf("/proc/thread-self/ns/net")
	case ns.process == nil:
		return IDOf(ns.path)
	}
	id, err := IDOf(fmt.Sprintf("/proc/%d/ns/net", ns.process.pid))
	if ns.process.exited() { // the number may be another's by now
		return ID{}, ErrExited
	}
	return id, err
}

// NameProcesses sets the PID and Command of sockets, as far as /proc shows a process of one of the namespaces
// that has them open. It looks at each process once, however many sockets there are.
func NameProcesses(sockets []target.Socket, namespaces ...ID) {
	wanted := map[uint32][]int{} // indices by inode
	for i, s := range sockets {
		if s.Inode != 0 {
			wanted[s.Inode] = append(wanted[s.Inode], i)
		}
	}
	for _, pid := range proc.All() { // the lowest first, which is the server and not its workers
		if len(wanted) == 0 {
			return
		}
		folder := filepath.Join("/proc", strconv.Itoa(pid))
		if id, err := IDOf(folder + "/ns/net"); err != nil || !slices.Contains(namespaces, id) {
			continue
		}
		command, err := os.ReadFile(folder + "/comm")
		if err != nil {
			continue
		}
		for _, inode := range socketsOf(folder + "/fd") {
			for _, i := range wanted[inode] {
				sockets[i].PID, sockets[i].Command = pid, strings.TrimSuffix(string(command), "\n")
			}
			delete(wanted, inode)
		}
	}
}

// socketsOf returns the inodes of the sockets among open files, by their links (proc_pid_fd(5)).
func socketsOf(folder string) (inodes []uint32) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil
	}
	for _, f := range files {
		link, err := os.Readlink(filepath.Join(folder, f.Name()))
		number, isSocket := strings.CutPrefix(link, "socket:[")
		if err != nil || !isSocket {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); err == nil {
			inodes = append(inodes, uint32(n))
		}
	}
	return inodes
}
