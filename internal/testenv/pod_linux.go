package testenv

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// NewPod starts a Pod that ends with the test. An ordinary user's is in a user namespace of its own.
func NewPod(t testing.TB) *Pod {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = NewNetwork()
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
	if err := loopbackUp(ns); err != nil {
		t.Fatal("set lo up:", err)
	}
	return p
}

// NewNetwork starts a process in a network namespace of its own, which takes a user namespace unless this is root.
func NewNetwork() *syscall.SysProcAttr {
	if os.Geteuid() == 0 {
		return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
}

// Kill ends the Pod's process and reaps it. Listeners made inside continue.
func (p *Pod) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// Listen listens inside the namespace, until the test ends.
func (p *Pod) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	f := p.bind(t, unix.SOCK_STREAM, unix.IPPROTO_TCP, address)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// bind makes a socket inside that is bound, and listens if it is one for connections; one of IPv6 is for IPv4 too,
// as with package net.
func (p *Pod) bind(t testing.TB, kind, protocol int, address string) *os.File {
	t.Helper()
	at := netip.MustParseAddrPort(address)
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is4() {
		to.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := p.NS.Socket(family, kind, protocol)
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = unix.Bind(fd, to)
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		t.Fatalf("listen on %s inside the namespace: %v", address, err)
	}
	return os.NewFile(uintptr(fd), address)
}

// ListenUnix listens at a path of this host, by a socket that is inside the namespace, until the test ends.
func (p *Pod) ListenUnix(t testing.TB, path string) net.Listener {
	t.Helper()
	fd, err := p.NS.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 4096))
	}
	if err != nil {
		t.Fatalf("listen on %s inside the namespace: %v", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// ListenUDP makes a socket for datagrams inside the namespace, until the test ends.
func (p *Pod) ListenUDP(t testing.TB, address string) net.PacketConn {
	t.Helper()
	f := p.bind(t, unix.SOCK_DGRAM, unix.IPPROTO_UDP, address)
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
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

// loopbackUp sets lo up (netdevice(7)).
func loopbackUp(ns *netns.Namespace) error {
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
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
