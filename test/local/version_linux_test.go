package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// The program that make builds says which commit it is of, whatever the go command may stamp by itself.
func TestVersion(t *testing.T) {
	if os.Getenv("PORTHOLE_BIN") == "" {
		testenv.Lacking(t, "a porthole that make built (PORTHOLE_BIN)")
	}
	out, err := exec.Command(porthole, "--version").CombinedOutput()
	version, named := strings.CutPrefix(strings.TrimSpace(string(out)), "porthole ")
	if err != nil || !named {
		t.Fatalf("%v: %q", err, out)
	}
	git(t, "rev-parse", "--verify", strings.TrimSuffix(version, "-dirty")+"^{commit}") // it knows it
}

// An archive knows its commit without git, and without being a part of the clone that it may lie in.
func TestVersionOfArchive(t *testing.T) {
	commit, dir := git(t, "rev-parse", "HEAD"), t.TempDir()
	archive := filepath.Join(dir, "archive.tar")
	git(t, "archive", "-o", archive, "HEAD", "scripts/version")
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	out, err := exec.Command(filepath.Join(dir, "scripts/version")).CombinedOutput()
	if version := strings.TrimSpace(string(out)); err != nil || len(version) != 12 || !strings.HasPrefix(commit, version) {
		t.Errorf("%v: %q, want the beginning of %q", err, out, commit)
	}
}

// git runs git in the clone that this test is in.
func git(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root(t), ".git")); err != nil {
		testenv.Lacking(t, "git's clone: this is an archive")
	}
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", root(t)}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// root is the folder of the whole tree.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
