package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// anySocket allows the paths of these tests.
var anySocket = Node{Policy: Policy{AllowUnix: Paths{"/*", "/*/*", "/*/*/*", "/*/*/*/*", "/*/*/*/*/*", "/*/*/*/*/*/*"}}}

// greeted returns what the server at a Unix socket of the pod says first, or why it cannot.
func (r *running) greeted(t *testing.T, path string) (string, error) {
	t.Helper()
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	defer client.Close()
	conn, err := client.Dial(t.Context(), target.Address{Network: target.Unix, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(net.Conn).SetDeadline(time.Now().Add(waitTime))
	text, err := io.ReadAll(conn)
	return string(text), err
}

// kubeletDir is a kubelet's directory for an emptyDir of a pod.
func kubeletDir(t *testing.T, root, uid, name string) string {
	t.Helper()
	dir := filepath.Join(root, "pods", uid, "volumes/kubernetes.io~empty-dir", name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mountTmpfs mounts memory at a directory until the test ends.
func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	testenv.Root(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// Which sockets of a container are the pod's own, and which lie on what others have mounted.
func TestUnixMounts(t *testing.T) {
	testenv.NoLeaks(t)
	pod, host := testenv.NewPod(t), t.TempDir()
	r := startNode(t, pod, anySocket)
	r.runtime.sandboxes["s1"].Status.Metadata.Uid = "uid-1"
	ownDir, memory := kubeletDir(t, host, "uid-1", "run"), kubeletDir(t, host, "uid-1", "memory")
	others, unasked := kubeletDir(t, host, "uid-2", "run"), kubeletDir(t, host, "uid-1", "unasked")
	mountTmpfs(t, memory)
	hostDir, hostMemory := filepath.Join(host, "dir"), filepath.Join(host, "tmpfs")
	mountTmpfs(t, hostMemory)
	c := &testContainer{User: 4000, Tmpfs: []string{"/dev"}}
	for _, dir := range []string{ownDir, memory, others, unasked, hostDir, hostMemory} {
		c.serve(t, "host:"+dir+"/x.sock")
	}
	c.Binds = [][2]string{
		{ownDir, "/own"}, {memory, "/memory"}, {others, "/others"}, {unasked, "/unasked"}, {hostDir, "/host"}, {hostMemory, "/hostmemory"},
		{hostDir + "/x.sock", "/file.sock"}, {hostDir, "/own/inside"}, {hostDir, "/covered"},
	}
	asked := func(inside, host string) *cri.Mount { return &cri.Mount{ContainerPath: inside, HostPath: host} }
	c.start(t, &r.runtime, "c1", 1, asked("/own", ownDir), asked("/memory", memory), asked("/others", others), asked("/host", hostDir),
		asked("/covered", ownDir), asked("/hostmemory", hostMemory), asked("/file.sock", hostDir+"/x.sock"))
	for _, path := range []string{"/root.sock", "/dev/x.sock"} {
		c.serve(t, path)
	}
	for link, to := range map[string]string{
		"link.sock": "/root.sock", "linkdir": "/own", "out.sock": hostDir + "/x.sock", "up.sock": "../../../.." + hostDir + "/x.sock",
		"viahost.sock": "/host/x.sock", "viaproc.sock": "/proc/self/root/root.sock",
	} {
		if err := os.Symlink(to, fmt.Sprintf("/proc/%d/root/%s", c.pid, link)); err != nil {
			t.Fatal(err)
		}
	}
	const own, denied, missing = "user 4000 group 4000", "denied", "no such file"
	for path, want := range map[string]string{
		"/root.sock": own, "/own/x.sock": own, "/memory/x.sock": own, "/dev/x.sock": own, "/link.sock": own, "/linkdir/x.sock": own,
		"/host/../root.sock": own, "/host/../host/x.sock": denied,
		"/others/x.sock": denied, "/unasked/x.sock": denied, "/host/x.sock": denied, "/hostmemory/x.sock": denied, "/file.sock": denied,
		"/own/inside/x.sock": denied, "/covered/x.sock": denied, "/viahost.sock": denied,
		"/out.sock": missing, "/up.sock": missing, "/nothing.sock": missing, "/own": "non-socket", "/root.sock/x": missing,
		"/viaproc.sock": "too many levels of symbolic links", "/proc/self/root/root.sock": "too many levels of symbolic links",
	} {
		text, err := r.greeted(t, path)
		switch {
		case want == own && (err != nil || !strings.HasPrefix(text, own)):
			t.Errorf("%s: %q, %v", path, text, err)
		case want == denied && (!errors.Is(err, tunnel.ErrDenied) || text != ""):
			t.Errorf("%s: %q, %v, want ErrDenied", path, text, err)
		case want != own && want != denied && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %q, %v, want %q", path, text, err, want)
		}
	}
	r.stop()
}

// A container's process that has another root than the container was made with may have one
// that is others'.
func TestUnixRoots(t *testing.T) {
	testenv.NoLeaks(t)
	host := t.TempDir()
	r := startNode(t, testenv.NewPod(t), anySocket)
	for name, c := range map[string]*testContainer{
		"chroot to a mount":                   {Chroot: "/host"},
		"chroot to a directory":               {Chroot: "/inside"},
		"a user namespace of its own":         {OwnUser: true},
		"and in it a mount for a root":        {OwnUser: true, Pivot: "/host"},
		"chroot to the root, which is no one": {Chroot: "/"},
	} {
		dir := filepath.Join(host, strings.ReplaceAll(name, " ", "-"))
		c.serve(t, "host:"+dir+"/x.sock")
		c.Binds, c.Dir = [][2]string{{dir, "/host"}}, t.TempDir()
		if err := os.MkdirAll(filepath.Join(c.Dir, "lower/inside"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.start(t, &r.runtime, "c1", 1)
		if c.Pivot == "" && c.Chroot != "/host" {
			c.serve(t, "/x.sock")
		}
		text, err := r.greeted(t, "/x.sock")
		if own := c.Chroot == "/"; own && err != nil || !own && (!errors.Is(err, tunnel.ErrDenied) || text != "") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	r.stop()
}

// What the node mounts into a container later is not the pod's.
func TestUnixMountedLater(t *testing.T) {
	testenv.NoLeaks(t)
	host := t.TempDir()
	mountTmpfs(t, host)
	if err := unix.Mount("", host, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	r := startNode(t, testenv.NewPod(t), anySocket)
	r.runtime.sandboxes["s1"].Status.Metadata.Uid = "uid-1"
	own := kubeletDir(t, host, "uid-1", "run")
	c := &testContainer{Slave: true, Binds: [][2]string{{own, "/own"}}}
	c.start(t, &r.runtime, "c1", 1, &cri.Mount{ContainerPath: "/own", HostPath: own})
	c.serve(t, "host:"+own+"/x.sock")
	if text, err := r.greeted(t, "/own/x.sock"); err != nil {
		t.Errorf("before: %q, %v", text, err)
	}
	mountTmpfs(t, own+"/later")
	c.serve(t, "host:"+own+"/later/x.sock")
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/own/later/x.sock", c.pid)); err != nil {
		t.Fatal("the mount does not arrive in the container:", err)
	}
	if text, err := r.greeted(t, "/own/later/x.sock"); !errors.Is(err, tunnel.ErrDenied) {
		t.Errorf("mounted later: %q, %v, want ErrDenied", text, err)
	}
	mountTmpfs(t, own) // over what the container has there
	c.serve(t, "host:"+own+"/x.sock")
	if text, err := r.greeted(t, "/own/x.sock"); err != nil || !strings.Contains(text, "user 0") {
		t.Errorf("covered on the node alone: %q, %v", text, err)
	}
	r.stop()
}

// A socket that somebody listens on outside, in a directory that the container's root is made
// of, is another file inside.
func TestUnixLowerLayer(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), anySocket)
	c := &testContainer{Dir: t.TempDir()}
	c.serve(t, "host:"+c.Dir+"/lower/x.sock")
	c.start(t, &r.runtime, "c1", 1)
	if text, err := r.greeted(t, "/x.sock"); err == nil || text != "" {
		t.Errorf("a socket in a layer of the root: %q, %v", text, err)
	}
	r.stop()
}

// The container that was made first is asked first, and those that are gone are left out. What
// is reached there is as long as paths may be, and connected to by the container's user.
func TestUnixContainers(t *testing.T) {
	testenv.NoLeaks(t)
	node := anySocket
	long := "/" + strings.Repeat("a-long-folder/", 20) + "x.sock"
	node.Policy.AllowUnix = append(Paths{long}, node.Policy.AllowUnix...)
	r := startNode(t, testenv.NewPod(t), node)
	second, first := &testContainer{User: 4002}, &testContainer{User: 4001}
	second.start(t, &r.runtime, "a", 2)
	first.start(t, &r.runtime, "b", 1)
	r.runtime.containers["gone"], r.runtime.created["gone"] = `{"pid":4194305}`, 0
	r.runtime.containers["unknown"] = `{}`
	first.serve(t, "/both.sock")
	second.serve(t, "/both.sock")
	second.serve(t, "/second.sock")
	for path, want := range map[string]string{"/both.sock": "user 4001", "/second.sock": "user 4002"} {
		if text, err := r.greeted(t, path); err != nil || !strings.HasPrefix(text, want) {
			t.Errorf("%s: %q, %v, want %s", path, text, err, want)
		}
	}
	second.serveLong(t, long)
	if text, err := r.greeted(t, long); err != nil || !strings.HasPrefix(text, "user 4002") {
		t.Errorf("a path of %d bytes: %q, %v", len(long), text, err)
	}
	// What the user may not open in the container is not opened for the client either.
	first.serve(t, "/private/x.sock")
	if err := os.Chmod(fmt.Sprintf("/proc/%d/root/private", first.pid), 0o700); err != nil {
		t.Fatal(err)
	}
	if text, err := r.greeted(t, "/private/x.sock"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("in a folder of root's: %q, %v", text, err)
	}
	r.stop()
}

// Records and metrics of Unix sockets, and what is told without --allow-unix.
func TestUnixRecords(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), Node{Policy: Policy{AllowUnix: Paths{"/run/*.sock"}}})
	records := follow(t, r.Events)
	c := &testContainer{}
	c.start(t, &r.runtime, "c1", 1)
	c.serve(t, "/run/x.sock")
	if text, err := r.greeted(t, "/run/x.sock"); err != nil {
		t.Errorf("%q, %v", text, err)
	}
	opened, closed := <-records, <-records
	if opened.Network != "unix" || opened.Path != "/run/x.sock" || opened.Port != 0 || closed.Event != EventClosed || closed.Received == 0 {
		t.Errorf("records %+v and %+v", opened, closed)
	}
	r.log.waitFor(t, `"network":"unix","path":"/run/x.sock","client":`)
	if _, err := r.greeted(t, "/etc/x.sock"); !errors.Is(err, tunnel.ErrDenied) || !strings.Contains(err.Error(), "--allow-unix") {
		t.Errorf("a socket that is not allowed: %v", err)
	}
	r.wantMetrics(t, `porthole_forwards_total{network="unix",result="denied"} 1`)
	if strings.Contains(scrape(t, r.Metrics), "x.sock") {
		t.Error("a path is among the metrics")
	}
	r.stop()
}

// Without the flag there are none, and pods on the node's network are refused as for ports.
func TestUnixDenied(t *testing.T) {
	testenv.NoLeaks(t)
	for flag, policy := range map[string]Policy{
		"--allow-unix": {}, "--deny-host-network": {AllowUnix: Paths{"/x.sock"}, DenyHostNetwork: true},
	} {
		r := startNode(t, testenv.NewPod(t), Node{Policy: policy})
		c := &testContainer{} // whose network is the node's
		c.start(t, &r.runtime, "c1", 1)
		c.serve(t, "/x.sock")
		if text, err := r.greeted(t, "/x.sock"); !errors.Is(err, tunnel.ErrDenied) || !strings.Contains(err.Error(), flag) {
			t.Errorf("%q, %v, want it denied by %s", text, err, flag)
		}
		r.stop()
	}
}

// A queue that is full holds up nobody else, and what waits for it ends with its client.
func TestUnixFullQueue(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), anySocket)
	c := &testContainer{}
	c.start(t, &r.runtime, "c1", 1)
	c.serve(t, "/x.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	place := fmt.Sprintf("/proc/%d/root/full.sock", c.pid)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: place}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	defer client.Close()
	for range 1000 {
		if _, err := client.Dial(t.Context(), target.Address{Network: target.Unix, Path: "/full.sock"}); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := r.greeted(t, "/x.sock"); err != nil {
		t.Errorf("beside 1,000 connections that wait: %q, %v", text, err)
	}
	_ = client.Close()
	r.log.waitFor(t, `"result":"lost"`)
	r.stop()
}

// A process that the runtime no longer calls the container's when it is held is not entered.
func TestContainerNumberUsedAgain(t *testing.T) {
	testenv.NoLeaks(t)
	pod, questions := testenv.NewPod(t), 0
	r := runtimeServer{containers: map[string]string{"c1": ""}}
	r.info = func(string) string {
		questions++
		return fmt.Sprintf(`{"pid":%d}`, []int{os.Getpid(), pod.PID}[(questions-1)%2])
	}
	if c, _, err := startSandboxes(t, &r, nil).enter(t.Context(), "c1"); !errors.Is(err, netns.ErrNoProcess) {
		t.Errorf("enter = %+v, %v, want ErrNoProcess", c, err)
	}
}

// Each network under the capabilities that the unit leaves, and with its drop-in for Unix sockets.
func TestUnitCapabilities(t *testing.T) {
	const unit, dropIn = "../../packaging/porthole.service", "../../packaging/porthole.service.d/unix.conf"
	for name, files := range map[string][]string{"unit": {unit}, "with drop-in": {unit, dropIn}} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			set := "-all"
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindAllStringSubmatch(string(text), -1) {
					for _, c := range strings.Fields(m[1]) {
						set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
					}
				}
			}
			pod := testenv.NewPod(t)
			node := anySocket
			node.Policy.AllowReverse = ReverseLoopback
			node.DataPath = func() *exec.Cmd {
				self, _ := os.Executable()
				cmd := exec.Command("setpriv", "--bounding-set", set, "--inh-caps", "-all", "--no-new-privs", self)
				cmd.Env = append(os.Environ(), dataPathEnv+"=1")
				return cmd
			}
			r := startNode(t, pod, node)
			if err := r.dialOnce(t, answer(t, pod, func(c *net.TCPConn) { _, _ = io.WriteString(c, "x") })); err != nil {
				t.Error("tcp:", err)
			}
			if text, err := r.exchange(t, target.Address{Network: target.UDP, Port: testenv.EchoUDP(pod.ListenUDP(t, "127.0.0.1:0"))}, "hello"); text != "hello" {
				t.Errorf("udp: %q, %v", text, err)
			}
			for _, network := range []target.Network{target.TCP, target.UDP} {
				l, err := r.listen(t, "127.0.0.1:8080", network)
				if err != nil {
					t.Fatal("reverse:", err)
				}
				go echoBack(l)
				if err := askInPod(t, pod, target.Address{Network: network, Port: 8080}); err != nil {
					t.Errorf("reverse %s: %v", network, err)
				}
			}
			if l, err := r.listen(t, "127.0.0.1:80", target.TCP); err == nil || !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") {
				t.Errorf("reverse of port 80: %v, %v", l, err)
			}
			c := &testContainer{User: 4000}
			c.start(t, &r.runtime, "c1", 1)
			c.serve(t, "/x.sock")
			text, err := r.greeted(t, "/x.sock")
			if len(files) == 1 && (err == nil || !strings.Contains(err.Error(), "porthole.service.d/unix.conf")) {
				t.Errorf("unix, without the drop-in: %q, %v", text, err)
			}
			if len(files) == 2 && (err != nil || !strings.HasPrefix(text, "user 4000 group 4000")) {
				t.Errorf("unix, with the drop-in: %q, %v", text, err)
			}
			r.stop()
		})
	}
}
