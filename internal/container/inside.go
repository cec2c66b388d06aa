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

// inContainer reports whether a process is in a cgroup of a container.
func inContainer(pid int, id string) bool {
	for _, cgroup := range cgroupsOf(pid) {
		if found, _ := containerOf(cgroup, id); found == id {
			return true
		}
	}
	return false
}

// cgroupsOf returns the paths of the cgroups that a process is in, one of each hierarchy (cgroups(7)).
func cgroupsOf(pid int) (paths []string) {
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(list)) {
		_, rest, _ := strings.Cut(line, ":")
		_, path, _ := strings.Cut(strings.TrimSpace(rest), ":")
		paths = append(paths, path)
	}
	return paths
}

// containerOf returns the container that a cgroup belongs to, as its ID, and the path of the container's own cgroup; "" for none. It
// is called as the container, or as that behind what runtimes put before, such as /../cri-containerd-ID.scope. IDs are known, or have
// 64 digits. The outermost one counts: those below have been named by processes inside, perhaps as another container.
func containerOf(cgroup, known string) (id, own string) {
	before := ""
	for at := 0; at < len(cgroup); {
		part := cgroup[at:]
		if end := strings.IndexAny(part, "/:"); end >= 0 {
			part = part[:end]
		}
		at += len(part) + 1
		name := strings.TrimSuffix(part, ".scope")
		for _, id := range []string{known, longID(name)} {
			kind, ok := strings.CutSuffix(name, id)
			switch {
			case id == "", !ok, kind != "" && !strings.HasSuffix(kind, "-"):
			case kind == "" && before == "libpod_parent": // a pod of podman, and its containers are below
			case strings.HasSuffix(kind, "conmon-"): // who watches the container
				return "", ""
			default:
				return id, cgroup[:at-1]
			}
		}
		before = part
	}
	return "", ""
}

// longID returns the ID of 64 digits that a name ends with, or "".
func longID(name string) string {
	const digits = 64
	if at := len(name) - digits; at >= 0 && strings.Trim(name[at:], "0123456789abcdef") == "" {
		return name[at:]
	}
	return ""
}
