package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// rooted is a process of another user, if this is root, with a directory as its root and a network namespace of its own.
func rooted(t *testing.T) (ns *netns.Namespace, root string) {
	t.Helper()
	root = t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	// What it has open keeps running in the new root: a loader and libraries are not needed.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRootedProcess$")
	cmd.Env = append(os.Environ(), "ROOTED="+root)
	cmd.SysProcAttr = testenv.NewNetwork()
	if os.Geteuid() != 0 {
		cmd.Env = append(cmd.Env, "ROOTED_USER=same")
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := io.ReadAll(io.LimitReader(stdout, 6)); err != nil || string(line) != "ready\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	ns, err = netns.OpenPID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns, root
}

// TestRootedProcess is the process of rooted.
func TestRootedProcess(t *testing.T) {
	root := os.Getenv("ROOTED")
	if root == "" {
		return
	}
	steps := []error{unix.Chroot(root), os.Chdir("/")}
	if os.Getenv("ROOTED_USER") == "" {
		steps = append(steps, syscall.Setgroups([]int{4001, 4002}), syscall.Setgid(4000), syscall.Setuid(4000))
	}
	for _, err := range steps {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
}

// listenUnix makes a socket and returns the peers' credentials as they connect.
func listenUnix(t *testing.T, path string) <-chan *unix.Ucred {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	peers := make(chan *unix.Ucred, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			peer, _ := proc.Peer(c.(*net.UnixConn))
			peers <- peer
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return peers
}

func dialUnix(t *testing.T, ns *netns.Namespace, path string) (pipe.Conn, error) {
	t.Helper()
	conn, err := ns.Dial(t.Context(), target.Address{Network: target.Unix, Path: path})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// A socket is reached as the process' user, inside its root.
func TestDialUnix(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	peers := listenUnix(t, filepath.Join(root, "a.sock"))
	if err := os.Chmod(filepath.Join(root, "a.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := dialUnix(t, ns, "/a.sock")
		if err != nil {
			t.Fatal(err)
		}
		if peer := <-peers; peer.Uid != 4000 || peer.Gid != 4000 {
			t.Errorf("the server sees user %d and group %d, want 4000", peer.Uid, peer.Gid)
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if os.Geteuid() != 0 {
		t.Error("this process is not root any more")
	}
}

// Nothing leads out of the process' root, and nothing is opened that is no socket of its user.
func TestDialUnixStaysInside(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	outside := filepath.Join(t.TempDir(), "host.sock")
	peers := listenUnix(t, outside)
	if err := os.Chmod(outside, 0o666); err != nil {
		t.Fatal(err)
	}
	listenUnix(t, filepath.Join(root, "private.sock")) // root's, mode 0755
	if err := os.Mkdir(filepath.Join(root, "private"), 0o700); err != nil {
		t.Fatal(err)
	}
	listenUnix(t, filepath.Join(root, "private/a.sock"))
	if err := os.Chmod(filepath.Join(root, "private/a.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for name, to := range map[string]string{"absolute": outside, "relative": up + outside[1:], "magic": "/proc/self/root" + outside, "root": "/proc/1/root" + outside} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]error{
		"/absolute":             syscall.ENOENT,
		"/relative":             syscall.ENOENT,
		"/magic":                syscall.ENOENT,
		"/root":                 syscall.ENOENT,
		up[:12] + outside[1:]:   syscall.ENOENT,
		"/nothing":              syscall.ENOENT,
		"/file":                 syscall.ENOTSOCK,
		"/":                     syscall.ENOTSOCK,
		"/private.sock":         syscall.EACCES,
		"/private/a.sock":       syscall.EACCES,
		strings.Repeat("/x", 9): syscall.ENOENT,
	} {
		if _, err := dialUnix(t, ns, path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	select {
	case <-peers:
		t.Error("the socket outside was reached")
	default:
	}
}

// A process of root without root's capabilities lends no more than it has.
func TestDialUnixWithoutCapabilities(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		testenv.Lacking(t, "setpriv")
	}
	path := filepath.Join(t.TempDir(), "a.sock")
	listenUnix(t, path)
	if err := errors.Join(os.Chmod(path, 0o700), os.Chown(path, 4000, 4000)); err != nil {
		t.Fatal(err)
	}
	for capability, want := range map[string]error{"-dac_override": syscall.EACCES, "-chown": nil} {
		cmd := exec.Command("setpriv", "--bounding-set", capability, "sh", "-c", "echo; exec sleep 1000")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if _, err := stdout.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		ns, err := netns.OpenPID(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		if _, err := dialUnix(t, ns, path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", capability, err, want)
		}
	}
}

// With a namespace at a path, the path of a socket is this host's.
func TestDialUnixOfThisHost(t *testing.T) {
	pod := testenv.NewPod(t)
	ns, err := netns.OpenPath("/proc/" + strconv.Itoa(pod.PID) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	path := filepath.Join(t.TempDir(), "a.sock")
	peers := listenUnix(t, path)
	if _, err := dialUnix(t, ns, path); err != nil {
		t.Fatal(err)
	}
	if peer := <-peers; int(peer.Uid) != os.Geteuid() {
		t.Errorf("the server sees user %d", peer.Uid)
	}
}

func TestUnixConn(t *testing.T) {
	ns, root := rooted(t)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		path := filepath.Join(root, "c.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			return nil, nil, nil, err
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return nil, nil, nil, err
		}
		c1, err := ns.Dial(t.Context(), target.Address{Network: target.Unix, Path: "/c.sock"})
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err := l.Accept()
		return c1.(net.Conn), c2, func() { _ = c1.Close(); _ = c2.Close(); _ = l.Close() }, err
	})
}
