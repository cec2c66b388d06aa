package netns_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// What root reaches in any namespace, ordinary users reach in those of their own user namespaces.
func TestAsUser(t *testing.T) {
	testenv.Root(t)
	pod := testenv.NewPod(t)
	t.Setenv("ROOTS_POD", strconv.Itoa(pod.PID))
	testenv.AsUser(t, "^Test(Dial|Conn|DialRefused|DialAtOnce|DialReset|ProcessExits|WaitEndsWithContext|PathIsFollowed|DialUDP|DialUDPRefused|DialUnixOfThisHost|UnixConn|ListeningNothing|WatchWithoutDescriptors|User.*)$")
}

// asUser reports whether this is an ordinary user. TestAsUser runs the tests that are only for one.
func asUser() bool { return os.Geteuid() != 0 }

// helpers are the numbers of this process' helpers.
func helpers(t *testing.T) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[1-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range all {
		pid, _ := strconv.Atoi(filepath.Base(folder))
		status, _ := os.ReadFile(folder + "/status")
		if strings.HasPrefix(string(status), "Name:\t"+netns.HelperName+"\n") && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			if stat, err := proc.ReadStat(pid); err == nil && !stat.Exited() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// A helper that somebody kills is started again, and none is left in the end.
func TestUserHelperDies(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	t.Cleanup(func() {
		if left := helpers(t); len(left) > 0 {
			t.Errorf("helpers are left: %v", left)
		}
	})
	pod := testenv.NewPod(t)
	l := pod.Listen(t, "127.0.0.1:0")
	for range 3 {
		conn, err := pod.NS.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if err := pod.NS.Check(); err != nil { // the connection may have had a spare socket
			t.Fatal(err)
		}
		now := helpers(t)
		if len(now) != 1 {
			t.Fatalf("helpers %v, want one", now)
		}
		if err := syscall.Kill(now[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

// All namespaces of a user namespace have one helper, and one that dies is nobody else's loss.
func TestUserHelperShared(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	var all []*netns.Namespace
	for range 3 {
		ns, err := netns.OpenPID(pod.PID)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		all = append(all, ns)
	}
	for range 3 {
		for _, ns := range all {
			if err := ns.Check(); err != nil {
				t.Fatal(err)
			}
		}
		now := helpers(t)
		if len(now) != 1 {
			t.Fatalf("helpers %v, want one", now)
		}
		if err := syscall.Kill(now[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

// Sockets that a helper makes in advance are those of the namespace that is at a path now, and keep none alive.
func TestUserSpares(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	first, second := testenv.NewPod(t), testenv.NewPod(t)
	path := filepath.Join(t.TempDir(), "net")
	lead := func(to *testenv.Pod) {
		_ = os.Remove(path)
		if err := os.Symlink(fmt.Sprintf("/proc/%d/ns/net", to.PID), path); err != nil {
			t.Fatal(err)
		}
	}
	lead(first)
	ns, err := netns.OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	l := second.Listen(t, "127.0.0.1:0")
	before := openSockets(t)
	for range 3 {
		fd, err := ns.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	if now := openSockets(t); now <= before {
		t.Errorf("%d sockets, as before: there are no spare ones", now)
	}
	lead(second)
	conn, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
	if err != nil {
		t.Fatal("after the path leads to another namespace:", err)
	}
	conn.Close()
	testenv.Await(t, "spare sockets are closed", func() bool { return openSockets(t) <= before+1 }) // and the helper's channel
}

// openSockets is how many sockets this process has open.
func openSockets(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if link, _ := os.Readlink(path); strings.HasPrefix(link, "socket:") {
			n++
		}
	}
	return n
}

// Ports below 1024 are the user's in a namespace of the user's own, and so are messages of ICMP.
func TestUserMayAllInside(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	for _, address := range []string{"127.0.0.1:80", "[::1]:80"} {
		for _, network := range []target.Network{target.TCP, target.UDP} {
			l, err := pod.NS.Bind(t.Context(), target.Endpoint{Network: network, AddrPort: netip.MustParseAddrPort(address)})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
	}
	for domain, protocol := range map[int]int{unix.AF_INET: unix.IPPROTO_ICMP, unix.AF_INET6: unix.IPPROTO_ICMPV6} {
		fd, err := pod.NS.Socket(domain, unix.SOCK_RAW, protocol)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	if _, err := pod.NS.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a socket that nobody needs: %v", err)
	}
}

// A process' files are read as the user: names are those of its /etc/hosts, and Unix sockets those of its root.
func TestUserFiles(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	ns, root := rooted(t)
	etc(t, root, "hosts", "127.0.0.1 me\n")
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if _, err := ns.Dial(t.Context(), target.Address{Host: "me", Port: 80}); !errors.Is(err, syscall.ENETUNREACH) { // lo is down
		t.Errorf("a host of /etc/hosts: %v", err)
	}
	listenUnix(t, filepath.Join(root, "a.sock"))
	if _, err := dialUnix(t, ns, "/a.sock"); err != nil {
		t.Error("a Unix socket:", err)
	}
}

// A process in the network of this host needs no helper.
func TestUserOwnNetwork(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ns, err := netns.OpenPID(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	conn, err := ns.Dial(t.Context(), target.TCPPort(testenv.Port(l)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if pids := helpers(t); len(pids) > 0 {
		t.Errorf("helpers %v", pids)
	}
}

// User namespaces may be in others, as those of containers in that of their engine.
func TestUserNested(t *testing.T) {
	if !asUser() {
		return
	}
	testenv.NoLeaks(t)
	cmd := exec.Command("unshare", "-Ur", "unshare", "-Urn", "sh", "-c", "echo ready; exec sleep 1000")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		testenv.Lacking(t, "unshare, of util-linux")
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ns, err := netns.OpenPID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := ns.Dial(t.Context(), target.TCPPort(80)); !errors.Is(err, syscall.ENETUNREACH) { // lo is down
		t.Errorf("Dial = %v, want ENETUNREACH", err)
	}
}

// Somebody else's namespaces stay closed, and the error says whose they are.
func TestUserOfOthers(t *testing.T) {
	if !asUser() || os.Getenv("ROOTS_POD") == "" {
		return
	}
	testenv.NoLeaks(t)
	pid, _ := strconv.Atoi(os.Getenv("ROOTS_POD"))
	ns, err := netns.OpenPID(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Check(); !errors.Is(err, netns.ErrPermission) || !strings.Contains(err.Error(), "runs as user 0") {
		t.Errorf("root's process: %v", err)
	}
}

// Files of namespaces can be open to everybody, who may still not enter them.
func TestUserPaths(t *testing.T) {
	if asUser() {
		for variable, want := range map[string]string{"ROOTS_PATH": "capability SYS_ADMIN", "OTHERS_PATH": "of user 54322"} {
			ns, err := netns.OpenPath(os.Getenv(variable))
			if os.Getenv(variable) == "" {
				return // TestAsUser has none
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := ns.Check(); !errors.Is(err, netns.ErrPermission) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", variable, err, want)
			}
			ns.Close()
		}
		return
	}
	testenv.NoLeaks(t)
	attach := func(variable string, attr *syscall.SysProcAttr, within ...string) {
		args := append(within, "sh", "-c", "echo ready; exec sleep 1000")
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr, cmd.Dir = attr, "/"
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		f, err := os.CreateTemp("/tmp", "netns")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { _ = unix.Unmount(f.Name(), unix.MNT_DETACH); _ = os.Remove(f.Name()) })
		if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), f.Name(), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Setenv(variable, f.Name())
	}
	attach("ROOTS_PATH", testenv.NewNetwork())
	attach("OTHERS_PATH", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54322, Gid: 54322}}, "unshare", "-Urn")
	testenv.AsUser(t, "^TestUserPaths$")
}

// A helper is in nobody's namespace between requests, has nothing open, cannot be looked into, and dies with its
// program.
func TestHelperAlone(t *testing.T) {
	if asUser() {
		if os.Getenv("ALONE") == "" {
			return
		}
		pod := testenv.NewPod(t)
		fmt.Println("ready", pod.PID, helpers(t)[0])
		select {}
	}
	testenv.NoLeaks(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperAlone$")
	cmd.Env = append(os.Environ(), "ALONE=yes", "TMPDIR=/tmp")
	testenv.ByUser(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var pod, helper int
	if _, err := fmt.Fscanf(stdout, "ready %d %d\n", &pod, &helper); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pod, syscall.SIGKILL) })
	inside, err := netns.IDOf(fmt.Sprintf("/proc/%d/ns/net", pod))
	if err != nil {
		t.Fatal(err)
	}
	testenv.Await(t, "the helper has left the namespace", func() bool {
		now, err := netns.IDOf(fmt.Sprintf("/proc/%d/ns/net", helper))
		return err == nil && now != inside
	})
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", helper))
	if err != nil || len(files) != 2 { // its channel, and its home
		t.Errorf("open files %v, %v", files, err)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", helper))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 { // proc_pid(5): of those that are not dumpable
		t.Errorf("its files in /proc are %+v, %v, want them root's", info, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	testenv.Await(t, "the helper ends with its program", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", helper))
		return errors.Is(err, os.ErrNotExist)
	})
}

func BenchmarkSocket(b *testing.B) {
	pod := testenv.NewPod(b)
	for b.Loop() {
		fd, err := pod.NS.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(fd)
	}
}
