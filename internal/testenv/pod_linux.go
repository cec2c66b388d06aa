package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
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

// ListenUDP makes a socket for datagrams inside the namespace, until the test ends.
func (p *Pod) ListenUDP(t testing.TB, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := p.NS.Do(func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		t.Fatal("listen inside the namespace:", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// EchoUDP sends every datagram back until the socket is closed, and returns its port.
func EchoUDP(c net.PacketConn) (port uint16) {
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
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

// loopbackUp sets lo up in the namespace of the calling thread.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// The addresses of the two ends of Join: IPv4, IPv6 and link-local.
const (
	Near4     = "10.9.0.1"
	Near6     = "fd09::1"
	NearLocal = "fe80::9:1"
	Far4      = "10.9.0.2"
	Far6      = "fd09::2"
	FarLocal  = "fe80::9:2"
)

// Join connects a namespace to a Pod by an interface "eth0" at both ends, with the addresses
// above.
func Join(t testing.TB, near *netns.Namespace, far *Pod) {
	t.Helper()
	err := near.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(far.PID)}
		return netlink.LinkAdd(veth)
	})
	if err == nil {
		err = near.Do(func() error { return interfaceUp(Near4+"/24", Near6+"/64", NearLocal+"/64") })
	}
	if err == nil {
		err = far.NS.Do(func() error { return interfaceUp(Far4+"/24", Far6+"/64", FarLocal+"/64") })
	}
	if err != nil {
		t.Fatal("join two namespaces:", err)
	}
	for _, ns := range []*netns.Namespace{near, far.NS} {
		Await(t, "eth0 can be used", func() (up bool) {
			_ = ns.Do(func() error { up = interfaceIsUp(); return nil })
			return up
		})
	}
}

// interfaceUp sets eth0 up in the namespace of the calling thread, with these addresses and no
// others, which can be used at once.
func interfaceUp(addresses ...string) error {
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/addr_gen_mode", []byte("1"), 0); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, address := range addresses {
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(eth0, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(eth0)
}

func interfaceIsUp() bool {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil || eth0.Attrs().OperState != netlink.OperUp {
		return false
	}
	addrs, err := netlink.AddrList(eth0, unix.AF_INET6)
	tentative := func(addr netlink.Addr) bool { return addr.Flags&unix.IFA_F_TENTATIVE != 0 }
	return err == nil && !slices.ContainsFunc(addrs, tentative)
}
