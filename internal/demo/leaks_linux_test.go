package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"porthole.dev/porthole/internal/testenv"
)

// wantNoTrace fails the test if, at its end and after its other cleanups,
// the machine differs from now: links of this run, mounts, children of this
// process, its file descriptors and goroutines.
func wantNoTrace(t *testing.T) {
	t.Helper()
	before := traces(t)
	goroutines := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		var after []string
		for deadline := time.Now().Add(testenv.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if after = traces(t); slices.Equal(before, after) && goleak.Find(goroutines) == nil {
				return
			}
		}
		t.Errorf("left behind:\nbefore %q\nafter  %q, and %v", before, after, goleak.Find(goroutines))
	})
}

func traces(t *testing.T) []string {
	t.Helper()
	var all []string
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // some other program's links have changed meanwhile
		links, err = netlink.LinkList()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, bridgeName()) {
			all = append(all, "link "+link.Attrs().Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "demo-root") {
			all = append(all, "mount "+line)
		}
	}
	all = append(all, children(t)...)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		// The runtime's own poller stays, once it was needed.
		if at, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && !strings.HasPrefix(at, "anon_inode:[event") {
			all = append(all, "fd "+fd.Name()+" "+at)
		}
	}
	return all
}

func children(t *testing.T) []string {
	t.Helper()
	var all []string
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err == nil && len(text) > 0 {
			all = append(all, "children "+string(text))
		}
	}
	return all
}

// bridgeName is this run's own: other runs may be on the machine.
func bridgeName() string { return fmt.Sprintf("pht%d", os.Getpid()) }
