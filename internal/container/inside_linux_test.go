package container

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestLinkLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "fe80::1": true, "fe80::1%eth0": true, "febf::1": true, "fd00:ec2::254": true,
		"127.0.0.1": false, "10.0.0.1": false, "169.253.0.1": false, "fd00::1": false, "2001:db8::1": false,
	} {
		if got := LinkLocal(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		strings.Repeat("0123456789abcdef", 4): true, "aBc-123_xyz789": true,
		"": false, "1": false, "containerd://0123456789ab": false, "0123456789ab/..": false, strings.Repeat("a", 129): false, "0123456789ab\n": false,
	} {
		if got := ValidID(id); got != want {
			t.Errorf("%q: %v, want %v", id, got, want)
		}
	}
}

// Runtimes have several forms of a cgroup's name, and an ID may be as short as a word of another one.
func TestInContainer(t *testing.T) {
	const id = "0123456789ab"
	for list, want := range map[string]bool{
		"0::/system.slice/docker-" + id + ".scope\n":                               true,
		"4:memory:/docker/" + id + "\n0::/\n":                                      true,
		"0::/kubepods.slice/cri-containerd-" + id + ".scope/inner\n":               true,
		"9:name=systemd:/kubepods/burstable/pod1/" + id + "\n":                     true,
		"9:name=systemd:/system.slice/containerd.service/a.slice:cri:" + id + "\n": true,
		"0::/machine.slice/libpod-" + id + "c.scope\n":                             false,
		"0::/machine.slice/libpod-conmon-x" + id + ".scope\n":                      false,
		"12:" + id + ":/\n": false,
		"":                  false,
	} {
		if got := inContainer(write(t, list), id); got != want {
			t.Errorf("%q: %v, want %v", list, got, want)
		}
	}
}

// The process of a container is the first one in a cgroup that its ID names.
func TestFirstProcess(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	id := "testid" + rand.Text()
	if pid := firstProcess(id); pid != 0 && pid != 1 {
		t.Errorf("of no container: process %d", pid)
	}
	cgroup := testenv.NewCgroup(t, "cri-containerd-"+id+".scope")
	first := sleeper(t, cgroup)
	lowest := min(first, sleeper(t, cgroup))
	if pid := firstProcess(id); pid != lowest {
		t.Errorf("process %d, want %d", pid, lowest)
	}
	inside := &Inside{ID: id, Namespace: netns.Here()}
	if _, err := inside.Dial(t.Context(), target.Address{Network: target.Unix, Path: "/nothing.sock"}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("dial: %v, want ENOENT", err)
	}
}

// sleeper starts a process in a cgroup, until the test ends.
func sleeper(t *testing.T, cgroup string) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
