package leftovers_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/leftovers"
	"porthole.dev/porthole/internal/testenv"
)

const somebody = 4004 // another user

// entryOf is the line of a list for a file, which everybody can write who can see the file.
func entryOf(t *testing.T, path string) []byte {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(map[string]any{"path": path, "is": map[string]any{
		"device": stat.Dev, "inode": stat.Ino, "modified": stat.Mtim.Nano(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return append(line, '\n')
}

// A list that another user has written, or a file of another user, names nothing: root may look into a
// folder of theirs.
func TestForeign(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	dir := t.TempDir()
	lists := filepath.Join(dir, "lists")
	if err := os.Mkdir(lists, 0o700); err != nil {
		t.Fatal(err)
	}
	precious, theirs := filepath.Join(dir, "precious"), filepath.Join(dir, "theirs")
	for _, path := range []string{precious, theirs} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	foreign := filepath.Join(lists, "foreign.jsonl")
	err := errors.Join(
		os.WriteFile(foreign, entryOf(t, precious), 0o600), os.Lchown(foreign, somebody, somebody),
		os.WriteFile(filepath.Join(lists, "mine.jsonl"), entryOf(t, theirs), 0o600), os.Lchown(theirs, somebody, somebody))
	if err != nil {
		t.Fatal(err)
	}
	dead, _, err := leftovers.Find(lists)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range dead {
		if len(l.Files) > 0 {
			t.Errorf("it names %v", l.Files)
		}
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(foreign); err != nil {
		t.Errorf("another user's list: %v", err)
	}
}

// A folder that was exchanged after it was looked at leads to no other file.
func TestExchangedFolder(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	lists, folder, other := filepath.Join(dir, "lists"), filepath.Join(dir, "folder"), filepath.Join(dir, "other")
	for _, path := range []string{lists, folder, other} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ready, precious := filepath.Join(folder, "ready"), filepath.Join(other, "ready")
	for _, path := range []string{ready, precious} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(lists, "mine.jsonl"), entryOf(t, ready), 0o600); err != nil {
		t.Fatal(err)
	}
	dead, _, err := leftovers.Find(lists)
	if err != nil || len(dead) != 1 || len(dead[0].Files) != 1 {
		t.Fatalf("%v, %v", dead, err)
	}
	if err := errors.Join(os.RemoveAll(folder), os.Symlink(other, folder)); err != nil {
		t.Fatal(err)
	}
	if err := dead[0].Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(precious); errors.Is(err, fs.ErrNotExist) {
		t.Error("the file behind the link is gone")
	}
}
