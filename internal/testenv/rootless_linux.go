package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/proc"
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
	e.begin(t)
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
	t.Cleanup(e.endOwn) // after its containers are gone, and before its folder is
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

// endOwn kills what an engine of the ordinary user leaves running: podman's service inside the user namespace, what keeps that, and conmon,
// which stays for five minutes after a command that was run in a container through podman's API.
func (e *Engine) endOwn() {
	for _, pid := range proc.All() {
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if userOf(pid) == UserID && strings.Contains(string(environment), "="+e.Dir+"\x00") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// userOf is the number of the user whose process it is, or -1 if there is none.
func userOf(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(status), "\nUid:\t")
	text, _, _ := strings.Cut(after, "\t")
	if user, err := strconv.Atoi(text); err == nil {
		return user
	}
	return -1
}
