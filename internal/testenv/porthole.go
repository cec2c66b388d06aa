package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var (
	builtOnce sync.Once
	builtDir  string
	errBuild  error
)

// Porthole returns the path of a porthole that is linked statically: $PORTHOLE_BIN, or one that is built now and removed by Main.
func Porthole(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("PORTHOLE_BIN"); path != "" {
		return path
	}
	builtOnce.Do(func() {
		if builtDir, errBuild = os.MkdirTemp("", "porthole-built"); errBuild != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(builtDir, "porthole"), "porthole.dev/porthole/cmd/porthole")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		errBuild = build.Run()
	})
	if errBuild != nil {
		t.Fatalf("build porthole: %v", errBuild)
	}
	return filepath.Join(builtDir, "porthole")
}

func removePorthole() {
	if builtDir != "" {
		_ = os.RemoveAll(builtDir)
	}
}
