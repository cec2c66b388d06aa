package testenv

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"
)

// Packages is the folder that "make test" unpacks packages of Debian into, each in a folder of its own:
// $PORTHOLE_PACKAGES, or where the Makefile has it.
func Packages(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("PORTHOLE_PACKAGES"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	return filepath.Join(dir, ".cache/packages")
}

// Program returns the path of a program of an unpacked package, such as usr/sbin/dockerd of docker.io, and the folder
// that it is in.
func Program(t testing.TB, pkg, path string) (program, dir string) {
	t.Helper()
	program = filepath.Join(Packages(t), pkg, path)
	if _, err := os.Stat(program); err != nil {
		Lacking(t, cmp.Or(filepath.Base(path), pkg)+" of the package "+pkg+", which `make test` unpacks")
	}
	return program, filepath.Dir(program)
}
