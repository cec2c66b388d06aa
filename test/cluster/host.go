package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Some places on the host are fixed in the programs and cannot be moved.
const (
	// cniCacheFolder is where libcni notes what it gave to a pod.
	cniCacheFolder = "/var/lib/cni"
	// containerLogFolder is where the kubelet links to the logs of containers.
	containerLogFolder = "/var/log/containers"
	// kubeletFolder is where the kubelet listens for device plugins, whatever its --root-dir.
	kubeletFolder = "/var/lib/kubelet"
	// cniNetworkName begins the name of every note in the cache.
	cniNetworkName = "porthole-cluster"
)

// hostState is what the cluster changes on the host, as it was before.
type hostState struct {
	// Sysctls are those that a kubelet sets for itself, by their file.
	Sysctls map[string]string
	// Missing are the fixed places that did not exist.
	Missing []string
}

func readHostState() hostState {
	before := hostState{Sysctls: map[string]string{}}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom",
		"kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
		"net/ipv4/ip_forward",
	} {
		path := filepath.Join("/proc/sys", name)
		if value, err := os.ReadFile(path); err == nil {
			before.Sysctls[path] = string(value)
		}
	}
	for _, dir := range []string{cniCacheFolder, containerLogFolder, kubeletFolder} {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			before.Missing = append(before.Missing, dir)
		}
	}
	return before
}

// restore writes only what differs: some of these files refuse even their own value.
func (h hostState) restore() error {
	var failed error
	for path, before := range h.Sysctls {
		now, err := os.ReadFile(path)
		if err == nil && string(now) != before {
			failed = errors.Join(failed, os.WriteFile(path, []byte(before), 0o644))
		}
	}
	for _, dir := range h.Missing {
		// A socket is left by a kubelet that was killed. One in a folder that was there before may be another's.
		if err := os.Remove(filepath.Join(dir, "device-plugins", "kubelet.sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
		if err := removeFolders(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// clear takes away every trace of the folder's cluster except binaries and logs. It needs the record
// for the sysctls only, and no help from containerd or the kubelet, which may be the ones that broke.
func (c *Cluster) clear(ctx context.Context) error {
	earlier, err := recordOf(c.folder)
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	c.endComponents(ctx)
	if err := clearCgroups(ctx); err != nil {
		return err
	}
	for _, dir := range []string{c.folder.state(), runFolder} {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	if err := clearNetwork(ctx); err != nil {
		return err
	}
	if err := errors.Join(c.removeLeftovers(), earlier.Before.restore()); err != nil {
		return fmt.Errorf("restore host: %w", err)
	}
	return errors.Join(os.RemoveAll(runFolder), os.RemoveAll(c.folder.state()))
}

// endComponents kills the components first, the kubelet before the runtime: they would
// start again what ends. What fails here is met again in the cgroups.
func (c *Cluster) endComponents(ctx context.Context) {
	for _, name := range []Component{Kubelet, Scheduler, ControllerManager, CoreDNS, Containerd, APIServer, Etcd} {
		if err := c.end(ctx, name, syscall.SIGKILL); err != nil {
			c.log.Warn("component did not end", "component", string(name), "error", err)
		}
	}
}

// removeLeftovers removes the cluster's own files from the fixed places.
func (c *Cluster) removeLeftovers() error {
	notes, err := filepath.Glob(filepath.Join(cniCacheFolder, "results", cniNetworkName+"-*"))
	if err != nil {
		return err
	}
	links, err := filepath.Glob(filepath.Join(containerLogFolder, "*.log"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, c.folder.state()+"/") {
			notes = append(notes, link)
		}
	}
	var failed error
	for _, path := range notes {
		failed = errors.Join(failed, os.Remove(path))
	}
	return failed
}

// maySetAnyOOMScore tells whether this process has CAP_SYS_RESOURCE, without which
// nothing may make itself less likely to be killed. See proc_pid_oom_score_adj(5).
func maySetAnyOOMScore() bool {
	const capSysResource = 24
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, "CapEff:"); found {
			bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err == nil && bits&(1<<capSysResource) != 0
		}
	}
	return false
}
