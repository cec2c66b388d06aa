package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
)

// Pod is a process in a network namespace of its own, with its loopback up.
type Pod struct {
	PID int
	NS  *netns.Namespace

	cmd *exec.Cmd
}

// NewPod starts a Pod that ends with the test.
func NewPod(t testing.TB) *Pod {
	t.Helper()
	Root(t)
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal("start a process in a namespace of its own:", err)
	}
	p := &Pod{PID: cmd.Process.Pid, cmd: cmd}
	t.Cleanup(p.Kill)
	ns, err := netns.OpenPID(p.PID)
	if err != nil {
		t.Fatal(err)
	}
	p.NS = ns
	t.Cleanup(func() { _ = ns.Close() })
	if err := ns.Do(loopbackUp); err != nil {
		t.Fatal("set lo up:", err)
	}
	return p
}

// Kill ends the Pod's process and reaps it. Listeners made inside continue.
func (p *Pod) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// Listen listens inside the namespace, until the test ends.
func (p *Pod) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	var l net.Listener
	err := p.NS.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal("listen inside the namespace:", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// AwaitConnecting waits until a socket inside the namespace is connecting to port of
// 127.0.0.1 and has no answer yet.
func (p *Pod) AwaitConnecting(t testing.TB, port uint16) {
	t.Helper()
	// proc_net_tcp(5): 02 is SYN_SENT.
	connecting := fmt.Sprintf(" 0100007F:%04X 02 ", port)
	Await(t, fmt.Sprintf("somebody connects to port %d", port), func() bool {
		sockets, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(sockets), connecting)
	})
}

// Port is the port that l listens on.
func Port(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

// loopbackUp sets lo up in the namespace of the calling thread.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
