package testenv

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// UserID is the number of an ordinary user that has no account, and of the user's group.
const UserID = 54321

// ByUser makes a command run as an ordinary user, without any capabilities.
func ByUser(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: UserID, Gid: UserID}
	cmd.Dir = "/"
}

// AsUser runs tests of the calling package as an ordinary user: those that a pattern matches, as -test.run does.
func AsUser(t *testing.T, pattern string) {
	t.Helper()
	AsUserFrom(t, "/proc/self/exe", pattern) // the file itself may be in a folder that only root can enter
}

// AsUserFrom is AsUser with the program of the tests at another path.
func AsUserFrom(t *testing.T, exe, pattern string) {
	t.Helper()
	Root(t)
	cmd := exec.Command(exe, "-test.v", "-test.run="+pattern)
	cmd.Env = append(os.Environ(), "HOME=/", "TMPDIR=/tmp")
	ByUser(cmd)
	out, err := cmd.CombinedOutput()
	switch text := string(out); {
	case err != nil:
		t.Fatalf("as user %d: %v\n%s", UserID, err, text)
	case strings.Contains(text, "--- SKIP"):
		Lacking(t, "what an ordinary user needs:\n"+text)
	case !strings.Contains(text, "--- PASS"):
		t.Fatalf("as user %d no test has run:\n%s", UserID, text)
	}
}
