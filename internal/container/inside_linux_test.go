package container

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
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

// Runtimes have several forms of a cgroup's name, and an ID may be as short as a word of another one. What is below the cgroup of
// another container is not believed.
func TestContainerOf(t *testing.T) {
	const id, long, other = "0123456789ab", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
	for cgroup, want := range map[string]string{
		"/system.slice/docker-" + id + ".scope":                                                        id,
		"/docker/" + id:                                                                                id,
		"/docker/" + id + "/docker/" + long:                                                            id,
		"/kubepods.slice/cri-containerd-" + id + ".scope/inner":                                        id,
		"/kubepods/burstable/pod1/" + id:                                                               id,
		"/../cri-containerd-" + id + ".scope":                                                          id,
		"/system.slice/containerd.service/a.slice:cri:" + id:                                           id,
		"/machine.slice/libpod-" + id + "c.scope":                                                      "",
		"/machine.slice/libpod-conmon-" + id + ".scope":                                                "",
		"/machine.slice/libpod-conmon-" + long + ".scope":                                              "",
		"/docker/x" + id:                                                                               "",
		"/machine.slice/machine-libpod_pod_" + other + ".slice/libpod-" + id + ".scope":                id,
		"/libpod_parent/" + other + "/libpod-" + id + "/container":                                     id,
		"/system.slice/docker-" + other + ".scope/docker-" + id + ".scope":                             other,
		"/docker/" + other + "/" + long:                                                                other,
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + long + ".scope/container": long,
		"/": "",
		"":  "",
	} {
		if got, own := containerOf(cgroup, id); got != want || !strings.HasPrefix(cgroup, own) || (own == "") != (want == "") {
			t.Errorf("%q: %q in %q, want %q", cgroup, got, own, want)
		}
	}
	if _, own := containerOf("/docker/"+long+"/init.scope", ""); own != "/docker/"+long {
		t.Errorf("the container's own cgroup is %q", own)
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

// A process that names a cgroup below its own as another container's, or one of its user's, is not taken for that.
func TestPosing(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	ids := map[string]string{} // of their own for each run
	for _, name := range []string{"victim", "attacker", "alone"} {
		ids[name] = fmt.Sprintf("%x", sha256.Sum256([]byte(rand.Text())))
	}
	cgroup := func(name string) string { return "docker-" + ids[name] + ".scope" }
	user := "user" + rand.Text()
	testenv.NewCgroup(t, user)
	posing := sleeper(t, testenv.NewCgroup(t, user+"/"+cgroup("victim"))) // the lower number
	sleeper(t, testenv.NewCgroup(t, cgroup("victim")))
	attacker := sleeper(t, testenv.NewCgroup(t, cgroup("attacker")))
	below := sleeper(t, testenv.NewCgroup(t, cgroup("attacker")+"/"+cgroup("alone")))
	first := firstProcesses()
	if pid := first[ids["victim"]]; pid != 0 {
		t.Errorf("process %d is taken for the victim's, %d poses as it", pid, posing)
	}
	if pid := first[ids["attacker"]]; pid != min(attacker, below) {
		t.Errorf("process %d is taken for the attacker's, want %d", pid, attacker)
	}
	alone := ids["alone"]
	if first[alone] != 0 || firstProcess(alone) == below || inContainer(below, alone) || isProcessOf(found{ID: alone, PID: below}) {
		t.Errorf("process %d is taken for that of another container", below)
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
