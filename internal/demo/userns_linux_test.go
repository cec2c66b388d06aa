package demo

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// An ordinary user's pod is in a user namespace, and its application without capabilities.
func TestUserPod(t *testing.T) {
	if os.Geteuid() == 0 {
		testenv.AsUser(t, "^TestUserPod$")
		return
	}
	testenv.NoLeaks(t)
	pod := startPod(t, testConfig(t))
	if pod.Bridge != "" || pod.IP.IsValid() {
		t.Errorf("bridge %q, address %v, want none", pod.Bridge, pod.IP)
	}
	for _, kind := range []string{"user", "net", "mnt", "pid", "uts", "ipc"} {
		mine, _ := os.Readlink("/proc/self/ns/" + kind)
		theirs, err := os.Readlink(filepath.Join(podFolder(pod), "ns", kind))
		if err != nil || theirs == mine {
			t.Errorf("%s: %q, %v; this process' is %q", kind, theirs, err, mine)
		}
	}
	status := readProc(t, pod, "status")
	for _, want := range []string{"NoNewPrivs:\t1\n", "CapBnd:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
}

func podFolder(pod *Pod) string { return filepath.Join("/proc", strconv.Itoa(pod.PID)) }

// Which setting keeps ordinary users from user namespaces is told by its name.
func TestExplainUserNamespaces(t *testing.T) {
	for setting, value := range map[string]string{
		"kernel.unprivileged_userns_clone": "0", "user.max_user_namespaces": "0", "kernel.apparmor_restrict_unprivileged_userns": "1",
	} {
		sysctls := t.TempDir()
		path := filepath.Join(sysctls, strings.ReplaceAll(setting, ".", "/"))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		var found *SettingError
		for _, cause := range []error{syscall.EPERM, syscall.ENOSPC, errEndedAtStart} {
			err := explainUserNamespaces(sysctls, cause)
			if !errors.As(err, &found) || found.Setting != setting || !errors.Is(err, cause) || !errors.Is(err, ErrUserNamespaces) {
				t.Errorf("%s: %v", setting, err)
			}
		}
		if err := explainUserNamespaces(sysctls, fs.ErrNotExist); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUserNamespaces) {
			t.Errorf("%s, and another error: %v", setting, err)
		}
	}
	if err := explainUserNamespaces(t.TempDir(), syscall.EPERM); !errors.Is(err, syscall.EPERM) || errors.Is(err, ErrUserNamespaces) {
		t.Errorf("no setting: %v", err)
	}
}

// Where user namespaces are used up, or there are to be none, the demo says so. The limit is that of a user
// namespace which root makes for the test.
func TestNoUserNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		_, err := Start(t.Context(), testConfig(t))
		var setting *SettingError
		if !errors.As(err, &setting) || setting.Setting != "user.max_user_namespaces" {
			t.Errorf("%v, want that user.max_user_namespaces is 0", err)
		}
		return
	}
	testenv.NoLeaks(t)
	cmd := exec.Command("/bin/sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --reuid 1000 --regid 1000 --clear-groups "$@"`,
		"sh", "/proc/self/exe", "-test.v", "-test.run=^TestNoUserNamespaces$")
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd.ExtraFiles, cmd.Args[4] = []*os.File{self}, "/proc/self/fd/3"
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR=/tmp")
	everybody := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: everybody, GidMappings: everybody, GidMappingsEnableSetgroups: true}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v: %s", err, out)
	}
}
