package container

import (
	"fmt"
	"os"
	"strings"
)

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
