package leftovers_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"porthole.dev/porthole/internal/leftovers"
	"porthole.dev/porthole/internal/testenv"
)

// dirVar makes this program one that makes files and waits to be killed.
const dirVar = "PORTHOLE_TEST_LEFTOVERS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dirVar); dir != "" {
		leave(dir)
		return
	}
	testenv.Main(m)
}

// leave makes a file, a socket and a relay's pod, and says so.
func leave(dir string) {
	l := &leftovers.List{Dir: filepath.Join(dir, "lists")}
	file, socket := filepath.Join(dir, "ready"), filepath.Join(dir, "x.sock")
	err := os.WriteFile(file, []byte("x"), 0o600)
	if _, listenErr := net.Listen("unix", socket); listenErr != nil {
		err = listenErr
	}
	if err := errors.Join(err, l.NoteFile(file), l.NoteFile(socket), l.NotePod("relay-1")); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("left\n")
	select {}
}

// killed starts such a program, and returns it once it has made its files.
func started(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), dirVar+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func find(t *testing.T, dir string) (files, pods []string, dead []leftovers.Left) {
	t.Helper()
	dead, pods, err := leftovers.Find(filepath.Join(dir, "lists"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range dead {
		files = append(files, l.Files...)
	}
	return files, pods, dead
}

// What a living process has made is its own; what a dead one has left is found, and removed.
func TestKilled(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	cmd := started(t, dir)
	if files, pods, _ := find(t, dir); len(files) > 0 || !slices.Equal(pods, []string{"relay-1"}) {
		t.Errorf("of a living one: %v, %v", files, pods)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	files, pods, dead := find(t, dir)
	want := []string{filepath.Join(dir, "ready"), filepath.Join(dir, "x.sock")}
	if !slices.Equal(files, want) || len(pods) > 0 {
		t.Errorf("of a dead one: %v, %v, want %v", files, pods, want)
	}
	for _, l := range dead {
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range want {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if lists, _ := os.ReadDir(filepath.Join(dir, "lists")); len(lists) > 0 {
		t.Errorf("left: %v", lists)
	}
}

// A file that was changed or replaced since it was noted is not removed.
func TestChanged(t *testing.T) {
	testenv.NoLeaks(t)
	dir := t.TempDir()
	cmd := started(t, dir)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	ready, socket := filepath.Join(dir, "ready"), filepath.Join(dir, "x.sock")
	if err := os.Chtimes(ready, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ready, socket); err != nil {
		t.Fatal(err)
	}
	files, _, dead := find(t, dir)
	if len(files) > 0 || len(dead) != 1 {
		t.Errorf("%v of %d dead", files, len(dead))
	}
	for _, l := range dead {
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{ready, socket} {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A process that ends in order leaves no list, and one that made nothing never had one.
func TestClosed(t *testing.T) {
	testenv.NoLeaks(t)
	dir := filepath.Join(t.TempDir(), "lists")
	l := &leftovers.List{Dir: dir}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder for nothing: %v", err)
	}
	if err := l.NotePod("relay-1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if lists, err := os.ReadDir(dir); err != nil || len(lists) > 0 {
		t.Errorf("left: %v, %v", lists, err)
	}
	if err := new(leftovers.List).NotePod("relay-1"); err != nil {
		t.Error(err)
	}
}

// A list that somebody has damaged names nothing.
func FuzzList(f *testing.F) {
	f.Add(`{"path":"/etc/passwd","is":{"device":1,"inode":2,"modified":3}}`)
	f.Add(`{"path":"relative"}` + "\n{")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a.jsonl"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		dead, _, err := leftovers.Find(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range dead {
			if len(l.Files) > 0 {
				t.Errorf("it names %v", l.Files)
			}
			l.Close()
		}
	})
}
