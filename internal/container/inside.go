package container

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
)

// ErrNotHere means that no process of a container can be seen.
var ErrNotHere = errors.New("no process of the container can be seen from here")

// Inside is the route.Dialer of a program that runs in a container itself. It leads to what the
// program reaches: its loopback and other hosts, by the names of its own /etc.
type Inside struct {
	// ID is that of another container, in the same process namespace, whose Unix sockets
	// are reached, with the permissions of this program. "" means those in the program's own root.
	ID string
	// Namespace is that of the program: netns.Here.
	Namespace *netns.Namespace
}

// Dial is for route.Dialer. Errors are those of netns.Namespace.Dial, and ErrNotHere.
func (i *Inside) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if to.Network != target.Unix || i.ID == "" {
		return i.Namespace.Dial(ctx, to)
	}
	ns, err := openByID(i.ID)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return ns.Dial(ctx, to)
}

// metadataServer is that of AWS in IPv6. Those of IPv4 are link-local.
var metadataServer = netip.MustParseAddr("fd00:ec2::254")

// LinkLocal reports whether an address means something to one machine or link only, as those of
// metadata servers do, which hand out the machine's credentials.
func LinkLocal(a netip.Addr) bool { return a.IsLinkLocalUnicast() || a == metadataServer }

// ValidID reports whether a text can be the ID of a container: long enough to be nobody
// else's, and without separators of paths.
func ValidID(id string) bool {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"
	return len(id) >= 12 && len(id) <= 128 && strings.Trim(id, digits) == ""
}

// openByID opens the first process of a container.
func openByID(id string) (*netns.Namespace, error) {
	for range 3 { // a number may be another process' by the time that it is opened
		pid := firstProcess(id)
		if pid == 0 {
			break
		}
		ns, err := netns.OpenPID(pid)
		if errors.Is(err, netns.ErrNoProcess) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if firstProcess(id) == pid {
			return ns, nil
		}
		ns.Close()
	}
	return nil, fmt.Errorf("container %.12s: %w", id, ErrNotHere)
}

// firstProcess returns the lowest process of a container, or 0 if there is none. Runtimes name the
// cgroup of a container by its ID; where cgroups say nothing, process 1 is taken, which is the container's if
// the process namespace is.
func firstProcess(id string) int {
	for _, pid := range proc.All() {
		if inContainer(pid, id) {
			return pid
		}
	}
	mine, _ := os.ReadFile("/proc/self/cgroup")
	if first, err := os.ReadFile("/proc/1/cgroup"); err == nil && string(first) == string(mine) && os.Getpid() != 1 {
		return 1
	}
	return 0
}
