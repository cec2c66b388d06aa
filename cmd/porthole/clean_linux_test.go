package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// Whoever may not use an engine is told so in a line, and all else is cleaned.
func TestCleanWithoutPermission(t *testing.T) {
	engine := testenv.NewDocker(t)
	program := filepath.Join(engine.Dir, "porthole") // which the user can enter
	home := filepath.Join(engine.Dir, "home")
	left := leftBehind(t, home)
	if out, err := exec.Command("cp", testenv.Porthole(t), program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := errors.Join(os.Chmod(engine.Dir, 0o711), os.Chmod(program, 0o755)); err != nil {
		t.Fatal(err)
	}
	clean := func(args ...string) (stdout, stderr string, err error) {
		var out, errs strings.Builder
		cmd := exec.Command(program, append([]string{"clean"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME=", "KUBECONFIG=", "DOCKER_HOST="+engine.Host, "CONTAINER_HOST=unix://"+home+"/none.sock")
		cmd.Stdout, cmd.Stderr = &out, &errs
		testenv.ByUser(cmd)
		err = cmd.Run()
		return out.String(), errs.String(), err
	}
	denied := regexp.MustCompile(`(?m)^porthole: not searched: docker at .*: permission denied: this user may not use its socket \(hint: the group nogroup may: .*\)$`)
	if out, errs, err := clean(); err != nil || out != "removed "+left+"\n" || len(denied.FindAllString(errs, -1)) != 1 {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	if out, errs, err := clean("--engine-context", "default"); err == nil || !strings.Contains(errs, "permission denied") {
		t.Errorf("an engine that was named: %v\n%s%s", err, out, errs)
	}
}

// leftBehind makes a home of an ordinary user whose porthole was killed, and returns the path of the file that it has left.
func leftBehind(t *testing.T, home string) (path string) {
	t.Helper()
	path, lists := filepath.Join(home, "ready"), filepath.Join(home, ".cache/porthole/files")
	var stat syscall.Stat_t
	err := errors.Join(os.MkdirAll(lists, 0o700), os.WriteFile(path, nil, 0o600), syscall.Stat(path, &stat))
	if err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(map[string]any{"path": path, "is": map[string]any{"device": stat.Dev, "inode": stat.Ino, "modified": stat.Mtim.Nano()}})
	if err == nil {
		err = os.WriteFile(filepath.Join(lists, "dead.jsonl"), append(line, '\n'), 0o600)
	}
	if err == nil {
		err = filepath.Walk(home, func(path string, _ os.FileInfo, err error) error {
			return errors.Join(err, os.Lchown(path, testenv.UserID, testenv.UserID))
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
