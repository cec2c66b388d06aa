package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asTester runs a command as an ordinary user, in a mount namespace where that user has an account, and numbers for the
// users of containers (subuid(5)). The programs of packages are at packages there, whoever may enter the
// folder that they are in, and newuidmap(1) is root's and setuid.
const asTester = `set -e
cd "$0"
mount -t overlay -o "lowerdir=$0/etc:/etc" overlay /etc
mount --bind "$1" packages
mount -t tmpfs -o mode=755 tmpfs bin
cp "$1"/uidmap/usr/bin/new?idmap bin
chmod 4755 bin/*
user=$2
shift 2
exec setpriv --reuid "$user" --regid "$user" --clear-groups "$@"`

// asRootless has dockerd's command follow in RootlessKit, as dockerd-rootless.sh does: the folders are root's outside.
const asRootless = `rm -f /run/docker /run/containerd /run/xtables.lock; exec "$@"`

// NewRootlessPodman starts podman's service as the ordinary user of AsUser, until the test ends. Its socket is where podman
// looks for it with $XDG_RUNTIME_DIR being Dir.
func NewRootlessPodman(t testing.TB) *Engine {
	t.Helper()
	podman, _ := Program(t, "podman", "usr/bin/podman")
	Program(t, "conmon", "usr/bin/conmon")
	e := newRootless(t, "podman", "podman/usr/bin", "runc/usr/sbin")
	e.Host = "unix://" + e.Dir + "/podman/podman.sock"
	e.configurePodman(t, e.Dir+"/packages/conmon/usr/bin/conmon")
	e.cli = []string{podman, "--remote", "--url", e.Host}
	e.beginRootless(t, "podman", "system", "service", "--time=0", e.Host)
	var service int
	t.Cleanup(func() {
		// What podman has started may outlive it: itself inside the user namespace, and what keeps that.
		text, _ := os.ReadFile(e.Dir + "/tmp/pause.pid")
		pause, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		for _, pid := range []int{service, pause} {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); pid > 1 && strings.HasPrefix(string(name), "podman") {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	e.begin(t)
	service = e.listener(t)
	return e
}

// NewRootlessDocker starts Docker's engine as the ordinary user of AsUser, until the test ends. It has this machine's
// network: one of its own would take a device that is root's here. Its containerd serves exec/containerd/containerd.sock in Dir, and
// is found as containerd-rootless.sh's is with $XDG_RUNTIME_DIR being Dir.
func NewRootlessDocker(t testing.TB) *Engine {
	t.Helper()
	docker, _ := Program(t, "docker.io", "usr/bin/docker")
	Program(t, "rootlesskit", "usr/bin/rootlesskit")
	e := newRootless(t, "docker", "rootlesskit/usr/bin", "docker.io/usr/bin", "docker.io/usr/sbin", "containerd/usr/bin", "runc/usr/sbin")
	e.cli = []string{docker, "-H", e.Host}
	e.beginRootless(t, "rootlesskit", "--net=host", "--copy-up=/etc", "--copy-up=/run", "--state-dir="+e.Dir+"/containerd-rootless",
		"sh", "-c", asRootless, "sh", "dockerd", "--rootless", "--data-root", e.Dir+"/data", "--exec-root", e.Dir+"/exec",
		"-H", e.Host, "--pidfile", e.Dir+"/pid", "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs")
	e.begin(t)
	return e
}

// newRootless makes the folder of an engine of the ordinary user, with folders of unpacked packages in its PATH.
func newRootless(t testing.TB, name string, folders ...string) *Engine {
	t.Helper()
	Root(t)
	Program(t, "uidmap", "usr/bin/newuidmap")
	e := newEngine(t, name)
	bin := []string{e.Dir + "/bin"}
	for _, folder := range folders {
		bin = append(bin, e.Dir+"/packages/"+folder)
	}
	e.env = append(e.env, "PATH="+strings.Join(append(bin, os.Getenv("PATH")), ":"))
	for _, folder := range []string{"bin", "packages", "etc", "podman"} {
		if err := os.Mkdir(filepath.Join(e.Dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, line := range map[string]string{
		"passwd": fmt.Sprintf("tester:x:%[1]d:%[1]d::%[2]s:/bin/sh", UserID, e.Dir), "group": fmt.Sprintf("tester:x:%d:", UserID),
		"subuid": "tester:600000:65536", "subgid": "tester:600000:65536",
	} {
		before, _ := os.ReadFile("/etc/" + file)
		if err := os.WriteFile(filepath.Join(e.Dir, "etc", file), append(before, line+"\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// beginRootless sets the engine's command, and gives all of its files to the user.
func (e *Engine) beginRootless(t testing.TB, command ...string) {
	t.Helper()
	e.command = append([]string{"unshare", "-m", "sh", "-c", asTester, e.Dir, Packages(t), strconv.Itoa(UserID)}, command...)
	err := filepath.WalkDir(e.Dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, UserID, UserID))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// listener returns the number of the process that listens on the engine's socket (SO_PEERCRED in unix(7)).
func (e *Engine) listener(t testing.TB) int {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(e.Host, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var peer *unix.Ucred
	failed := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
	return int(peer.Pid)
}
