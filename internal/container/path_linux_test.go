package container_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// A namespace that is made again under its path is listened at again: what was listened on in the old one is
// closed.
func TestListensInNamespaceMadeAgain(t *testing.T) {
	testenv.Root(t)
	path := filepath.Join(t.TempDir(), "blue")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	attach := func() *testenv.Pod {
		pod := testenv.NewPod(t)
		if err := unix.Mount("/proc/"+strconv.Itoa(pod.PID)+"/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	attach()
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	r, err := container.Open(t.Context(), target.Forward{Target: target.Target{Scheme: target.NetNS, Path: path}}, func(route.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	at := target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:8080")}
	l, err := r.Bind(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Unmount(path, unix.MNT_DETACH)
	pod := attach()
	if _, err := l.Streams.Accept(); err == nil {
		t.Error("somebody has connected in a namespace that is gone")
	}
	if l, err = r.Bind(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := pod.NS.Dial(t.Context(), target.TCPPort(8080))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.Streams.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if accepted.RemoteAddr().String() != conn.(net.Conn).LocalAddr().String() {
		t.Errorf("%v has connected", accepted.RemoteAddr())
	}
}
