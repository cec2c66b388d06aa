package testenv

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Containerd is a real containerd with sockets and folders of its own. It has a mount namespace of its own, so that nothing is left
// mounted, and serves the CRI too. Its containers have no network but a loopback of their own, and an image Image with busybox.
// It takes root.
type Containerd struct {
	Dir       string   // for its files
	Socket    string   // where it serves
	Namespace string   // of containers that Run starts, and of their cgroups
	Within    []string // a command that starts another, such as unshare with its options; nil for none

	bin     string // the folder of its programs
	env     []string
	serving *exec.Cmd
}

// containerdConfig is for containerd 1.6.
const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "%[2]s"
[ttrpc]
  address = "%[2]s.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + containerdImage + `"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  cni = {bin_dir = "%[1]s/cni", conf_dir = "%[1]s/cni"}
  containerd = {snapshotter = "native"}
`

// containerdImage is the full name of Image.
const containerdImage = "docker.io/library/" + Image

// The plugins of CNI that containerd calls for each pod: one sets its loopback up, and the other does nothing but to
// tell an address.
const (
	cniLoopback = `#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" != ADD ] || nsenter --net="$CNI_NETNS" ip link set lo up || exit 1
echo '{"cniVersion": "0.3.1", "interfaces": [{"name": "lo"}]}'
`
	cniNone = `#!/bin/sh
cat >/dev/null
echo '{"cniVersion": "0.3.1", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}], "ips": [{"version": "4", "address": "10.9.8.7/24", "interface": 0}]}'
`
	cniNetwork = `{"cniVersion": "0.3.1", "name": "none", "plugins": [{"type": "none"}]}`
)

// NewContainerd makes a Containerd and starts it, until the test ends.
func NewContainerd(t testing.TB, within ...string) *Containerd {
	t.Helper()
	Root(t)
	program, bin := Program(t, "containerd", "usr/bin/containerd")
	_, runc := Program(t, "runc", "usr/sbin/runc")
	dir := engineFolder(t, "containerd")
	c := &Containerd{Dir: dir, Socket: dir + "/c.sock", Namespace: "porthole-" + strings.ToLower(rand.Text()[:8]), Within: within, bin: filepath.Dir(program)}
	c.env = append(os.Environ(), "PATH="+bin+":"+runc+":"+os.Getenv("PATH"), "CONTAINERD_ADDRESS="+c.Socket, "CONTAINERD_NAMESPACE="+c.Namespace)
	var err error
	for name, text := range map[string]string{
		"config.toml": fmt.Sprintf(containerdConfig, dir, c.Socket), "cni/loopback": cniLoopback, "cni/none": cniNone, "cni/none.conflist": cniNetwork,
	} {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	t.Cleanup(func() { c.end(t) })
	for _, namespace := range []string{c.Namespace, "k8s.io"} {
		cmd := c.Command("-n", namespace, "images", "import", "--snapshotter", "native", "-")
		cmd.Stdin = bytes.NewReader(imageArchive(t))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("import an image: %v: %s", err, out)
		}
	}
	return c
}

// Start starts containerd, after Kill. Its containers may still be there.
func (c *Containerd) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(c.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	args := slices.Concat(c.Within, []string{"unshare", "--mount", "--propagation", "slave", filepath.Join(c.bin, "containerd"), "-c", filepath.Join(c.Dir, "config.toml")})
	c.serving = exec.Command(args[0], args[1:]...)
	c.serving.Env, c.serving.Stdout, c.serving.Stderr = c.env, log, log
	if err := c.serving.Start(); err != nil {
		t.Fatal(err)
	}
	if !within(Patience, c.answers) {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("containerd does not answer:\n%s", text)
	}
}

// answers reports whether all parts of containerd serve, of which the CRI is the last.
func (c *Containerd) answers() bool {
	conn, err := net.Dial("unix", c.Socket)
	if err != nil {
		return false
	}
	conn.Close()
	out, err := c.Command("plugins", "ls").Output()
	return err == nil && bytes.Contains(out, []byte("cri "))
}

// Kill kills containerd at once. Its containers go on.
func (c *Containerd) Kill() {
	_ = c.serving.Process.Kill()
	_ = c.serving.Wait()
}

// RemoveAll removes all containers.
func (c *Containerd) RemoveAll(t testing.TB) {
	t.Helper()
	for _, namespace := range []string{c.Namespace, "k8s.io"} {
		for _, remove := range [][]string{{"tasks", "rm", "-f"}, {"containers", "rm"}} {
			if all := strings.Fields(c.Do(t, "-n", namespace, remove[0], "ls", "-q")); len(all) > 0 {
				_ = c.Command(slices.Concat([]string{"-n", namespace}, remove, all)...).Run() // some end with others
			}
		}
	}
}

// end removes all containers, ends containerd, and takes away the cgroups.
func (c *Containerd) end(t testing.TB) {
	// Shims that end with their PID namespace leave their sockets.
	bundles, _ := filepath.Glob(c.Dir + "/state/io.containerd.runtime.v2.task/*/*/address")
	for _, path := range bundles {
		address, _ := os.ReadFile(path)
		defer os.Remove(strings.TrimPrefix(string(address), "unix://"))
	}
	c.Kill()
	c.Start(t)
	c.RemoveAll(t)
	Await(t, "all shims have ended", func() bool { return len(c.shims()) == 0 })
	c.Kill()
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + c.Namespace)
	for _, root := range append(roots, "/sys/fs/cgroup/"+c.Namespace) {
		Await(t, "the cgroups are empty", func() bool { return removeFolders(root) })
	}
}

// removeFolders removes a folder or a cgroup with all that are in it, unless there is a file in one, or a process.
func removeFolders(root string) bool {
	var all []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for _, path := range slices.Backward(all) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}

// shims are the numbers of the processes that keep the containers.
func (c *Containerd) shims() (pids []int) {
	all, _ := filepath.Glob("/proc/[1-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && bytes.Contains(line, []byte("\x00-address\x00"+c.Socket+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Command is ctr with arguments, such as "containers", "ls".
func (c *Containerd) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, "ctr"), args...)
	cmd.Env = c.env
	return cmd
}

// Do runs ctr, and returns what it prints.
func (c *Containerd) Do(t testing.TB, args ...string) string {
	t.Helper()
	cmd := c.Command(args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// Run starts a container by its ID, with options of "ctr run". At port 8080 of its loopback, and at a Unix socket /run/id.sock, it
// tells the name that it is given.
func (c *Containerd) Run(t testing.TB, id, name string, options ...string) {
	t.Helper()
	args := slices.Concat([]string{"run", "-d", "--null-io", "--snapshotter", "native", "--runc-root", c.Dir + "/runc"}, options, []string{containerdImage, id}, WebAs(name))
	c.Do(t, args...)
	if c.Within == nil {
		AwaitWeb(t, c.PID(t, id))
	}
}

// PID returns the number of a container's first process, by containerd's PID namespace.
func (c *Containerd) PID(t testing.TB, id string) int {
	t.Helper()
	for line := range strings.Lines(c.Do(t, "tasks", "ls")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			pid, _ := strconv.Atoi(fields[1])
			return pid
		}
	}
	t.Fatalf("there is no task %s", id)
	return 0
}

// AwaitWeb waits until somebody listens at port 8080 of the loopback of a process.
func AwaitWeb(t testing.TB, pid int) {
	t.Helper()
	Await(t, "a container's server listens", func() bool {
		sockets, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
		return bytes.Contains(sockets, []byte(" 0100007F:1F90 00000000:0000 0A ")) // LISTEN (proc_net_tcp(5))
	})
}

// WebAs is Web with another name than the host's.
func WebAs(name string) []string {
	return []string{"sh", "-c", "mkdir -p /www && echo " + name + " > /www/id && exec httpd -f -p 127.0.0.1:8080 -h /www"}
}

// imageArchive is Image as "docker save" would write it (Docker image specification 1.2).
func imageArchive(t testing.TB) []byte {
	t.Helper()
	layer, err := io.ReadAll(busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	digest := func(data []byte) string { sum := sha256.Sum256(data); return hex.EncodeToString(sum[:]) }
	config, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"sleep", "1000000"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	name := digest(config) + ".json"
	manifest, _ := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{Image}, "Layers": []string{"layer.tar"}}})
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{name, config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		_ = w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))})
		_, _ = w.Write(f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}
