package kuard

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Opening a fifo waits for its other end, and opening a device may do anything.
func TestSpecialFilesAreNotOpened(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(root, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := serve(t, &Server{Root: root})
	s.client.Timeout = time.Minute
	page := s.want(http.StatusOK, "GET", "/fs/", "").body
	for _, kind := range []string{"fifo", "socket"} {
		if r := s.want(http.StatusForbidden, "GET", "/fs/"+kind, ""); !strings.Contains(r.body, "neither a directory nor a regular file") {
			t.Errorf("%s: %s", kind, r.body)
		}
		if strings.Contains(page, `href="./`+kind) {
			t.Errorf("the listing links to the %s", kind)
		}
	}
	whole := serve(t, &Server{})
	whole.want(http.StatusForbidden, "GET", "/fs/dev/zero", "")
	whole.want(http.StatusForbidden, "GET", "/fs/dev/tty", "")
}

// Files in /proc say that they have 0 bytes, and those in /sys 4096; both have something else.
func TestFilesThatDoNotKnowTheirSize(t *testing.T) {
	s := serve(t, &Server{})
	if r := s.want(http.StatusOK, "GET", "/fs/proc/self/status", ""); !strings.Contains(r.body, "VmRSS:") {
		t.Errorf("status is %q", r.body)
	}
	if r := s.want(http.StatusOK, "GET", "/fs/sys/kernel/mm/transparent_hugepage/enabled", ""); !strings.Contains(r.body, "never") {
		t.Errorf("enabled is %q", r.body)
	}
	if r := s.do("GET", "/fs/proc/kallsyms", ""); r.status == http.StatusOK && len(r.body) > maxWhole {
		t.Errorf("%d bytes of kallsyms", len(r.body))
	} else if len(r.body) == maxWhole && r.header.Get(truncatedHeader) != "1048576" {
		t.Error("kallsyms is cut without saying so")
	}
}

// The links of /proc are magic: the kernel would follow them to wherever the process is.
func TestMagicLinksStayInside(t *testing.T) {
	s := serve(t, &Server{})
	s.want(http.StatusFound, "GET", "/fs/proc/self/root", "")
	if page := s.want(http.StatusOK, "GET", "/fs/proc/self/root/", "").body; !strings.Contains(page, `data-name="proc"`) {
		t.Error("/proc/self/root is not /")
	}
	s.want(http.StatusOK, "GET", "/fs/proc/self/cwd/fs_linux_test.go", "")
}
