package cluster_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// host is what a cluster could leave behind, each kind as a sorted list.
type host map[string][]string

func lookAtHost(t *testing.T) host {
	t.Helper()
	h := host{
		"processes": processesOfClusters(t),
		"folders": glob(t, "/run/porthole-cluster", "/run/containerd", "/var/run/nri", "/var/lib/cni", "/var/lib/cni/results/*", "/var/log/containers", "/var/log/containers/*",
			"/var/lib/kubelet", "/etc/cni", "/usr/libexec/kubernetes", "/sys/fs/cgroup/porthole-cluster", "/sys/fs/cgroup/*/porthole-cluster"),
		"descriptors": {count(t, "/proc/self/fd/*")},
	}
	h["mounts"] = strings.Split(read(t, "/proc/self/mounts"), "\n")
	for _, name := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"} {
		h["sysctls"] = append(h["sysctls"], name+"="+read(t, "/proc/sys/"+name))
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		h["links"] = append(h["links"], link.Attrs().Name)
	}
	for _, list := range h {
		slices.Sort(list)
	}
	return h
}

// wantBack wants the host to look as before within a minute: init takes its time to bury the dead.
func (h host) wantBack(t *testing.T) {
	t.Helper()
	after := lookAtHost(t)
	for range 600 {
		if maps.EqualFunc(h, after, slices.Equal) {
			return
		}
		time.Sleep(100 * time.Millisecond)
		after = lookAtHost(t)
	}
	for _, kind := range slices.Sorted(maps.Keys(h)) {
		if !slices.Equal(h[kind], after[kind]) {
			t.Errorf("%s before:\n%s\nafter:\n%s", kind, strings.Join(h[kind], "\n"), strings.Join(after[kind], "\n"))
		}
	}
}

// processesOfClusters finds them in two ways: by their cgroup, which covers pods,
// and by their program, which covers a component that never reached its cgroup.
func processesOfClusters(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, dir := range glob(t, "/proc/[0-9]*") {
		cgroups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		program, _ := os.Readlink(filepath.Join(dir, "exe"))
		arguments, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // another test's API server has other folders
		if program == "" {
			continue // dead, and not buried yet by its parent, or one of the kernel's
		}
		if strings.Contains(string(cgroups), "/porthole-cluster") || strings.Contains(program, "cluster/bin/") && strings.Contains(string(arguments), "cluster/state") {
			found = append(found, filepath.Base(dir)+" "+program)
		}
	}
	return found
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func count(t *testing.T, pattern string) string {
	t.Helper()
	return strings.Repeat("|", len(glob(t, pattern)))
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
