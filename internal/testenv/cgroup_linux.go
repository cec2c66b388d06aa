package testenv

import (
	"os"
	"path/filepath"
	"testing"
)

// NewCgroup makes a cgroup until the test ends, of whichever version there is, and returns its
// folder. What is in it has to be gone by then.
func NewCgroup(t testing.TB, name string) string {
	t.Helper()
	Root(t)
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"} {
		folder := filepath.Join(hierarchy, name)
		if _, err := os.Stat(filepath.Join(hierarchy, "cgroup.procs")); err == nil && os.Mkdir(folder, 0o755) == nil {
			t.Cleanup(func() { Await(t, "the cgroup is empty", func() bool { return os.Remove(folder) == nil }) })
			return folder
		}
	}
	Lacking(t, "cgroups")
	return ""
}
