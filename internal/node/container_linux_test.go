package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/testenv"
)

// containerEnv is set where the test's own program is the first process of a container.
const containerEnv = "PORTHOLE_TEST_CONTAINER"

// testContainer is what a container is made of: a mount namespace of its own whose root is an
// overlay, and mounts in it.
type testContainer struct {
	Dir     string      // of Dir/lower, Dir/upper and Dir/work, with Dir/root for the root
	Binds   [][2]string // from the host to a place inside
	Tmpfs   []string    // places inside
	Slave   bool        // mounts of the host propagate into it
	Chroot  string      // the process' root, inside
	Pivot   string      // the root is this place inside, after all
	User    int         // that it runs as
	OwnUser bool        // it is in a user namespace of its own
	pid     int
}

// runContainer makes the container and stays in it.
func runContainer(plan string) {
	var c testContainer
	err := json.Unmarshal([]byte(plan), &c)
	if err == nil {
		err = c.enter()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
}

// enter makes the root and mounts in the mount namespace of this process, and goes there.
func (c *testContainer) enter() error {
	root, propagation := c.Dir+"/root", uintptr(unix.MS_PRIVATE)
	if c.Slave {
		propagation = unix.MS_SLAVE
	}
	layers := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", c.Dir)
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|propagation, "") },
		func() error { return unix.Mount("overlay", root, "overlay", 0, layers) },
		func() error { return os.MkdirAll(root+"/proc", 0o755) },
		func() error { return unix.Mount("/proc", root+"/proc", "", unix.MS_BIND|unix.MS_REC, "") },
	}
	for _, b := range c.Binds {
		steps = append(steps, func() error { return bindInto(root+b[1], b[0]) })
	}
	for _, place := range c.Tmpfs {
		steps = append(steps, func() error { return os.MkdirAll(root+place, 0o755) },
			func() error { return unix.Mount("tmpfs", root+place, "tmpfs", 0, "") })
	}
	steps = append(steps, func() error { return pivot(root) })
	if c.Pivot != "" {
		steps = append(steps, func() error { return pivot(c.Pivot) })
	}
	if c.Chroot != "" {
		steps = append(steps, func() error { return unix.Chroot(c.Chroot) }, func() error { return os.Chdir("/") })
	}
	if c.User != 0 {
		steps = append(steps, func() error { return syscall.Setgroups([]int{c.User + 1}) },
			func() error { return syscall.Setgid(c.User) }, func() error { return syscall.Setuid(c.User) })
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// bindInto binds a file or directory of the host to a place, which it makes.
func bindInto(place, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(place, 0o755)
	} else {
		err = os.WriteFile(place, nil, 0o644)
	}
	if err != nil {
		return err
	}
	return unix.Mount(from, place, "", unix.MS_BIND|unix.MS_REC, "")
}

// pivot makes a mount the root, as container runtimes do (pivot_root(2)).
func pivot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Chdir("/")
}

// start starts the container, until the test ends, and tells the runtime of it.
func (c *testContainer) start(t *testing.T, r *runtimeServer, id string, created int64, mounts ...*cri.Mount) {
	t.Helper()
	testenv.Root(t)
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	for _, dir := range []string{"lower", "upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), containerEnv+"="+string(plan))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if c.OwnUser {
		same := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = same, same
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line := make([]byte, 200)
	if n, _ := stdout.Read(line); string(line[:n]) != "ready\n" {
		t.Fatalf("the container says %q", line[:n])
	}
	c.pid = cmd.Process.Pid
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers == nil {
		r.containers, r.created, r.mounts = map[string]string{}, map[string]int64{}, map[string][]*cri.Mount{}
	}
	r.containers[id], r.created[id], r.mounts[id] = fmt.Sprintf(`{"pid":%d}`, c.pid), created, mounts
}

// serve answers connections to a Unix socket with who connected, and what for; path is one
// inside the container, or with "host:" before it one of the host.
func (c *testContainer) serve(t *testing.T, path string) {
	t.Helper()
	place, onHost := strings.CutPrefix(path, "host:")
	if !onHost {
		place = fmt.Sprintf("/proc/%d/root%s", c.pid, path)
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", place)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = l.Close(); _ = os.Remove(place) })
	if err := os.Chmod(place, 0o666); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if peer, err := proc.Peer(conn.(*net.UnixConn)); err == nil {
				fmt.Fprintf(conn, "user %d group %d at %s", peer.Uid, peer.Gid, path)
			}
			_ = conn.Close()
		}
	}()
}

// serveLong serves at a path that is longer than a socket can be bound to.
func (c *testContainer) serveLong(t *testing.T, path string) {
	t.Helper()
	c.serve(t, "/s")
	root := fmt.Sprintf("/proc/%d/root", c.pid)
	if err := errors.Join(os.MkdirAll(root+filepath.Dir(path), 0o755), os.Rename(root+"/s", root+path)); err != nil {
		t.Fatal(err)
	}
}
