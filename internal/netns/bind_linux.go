package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// backlog is cut by the kernel to the namespace's net.core.somaxconn (listen(2)).
const backlog = 1 << 16

// Bind is a route.Binder to addresses of the namespace. It listens on no Unix sockets, which are in no network.
// Errors: target.ErrUnsupported, *net.OpError, and those of Socket.
func (ns *Namespace) Bind(_ context.Context, at target.Endpoint) (*route.Listener, error) {
	kind, protocol := unix.SOCK_STREAM, unix.IPPROTO_TCP
	switch at.Network {
	case target.Unix:
		return nil, fmt.Errorf("listen on %s: %w", at, target.ErrUnsupported)
	case target.UDP:
		kind, protocol = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	}
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := ns.Socket(family, kind, protocol)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), at.String())
	defer f.Close()
	if err := bind(fd, family, kind, at.AddrPort); err != nil {
		return nil, &net.OpError{Op: "listen", Net: at.Network.String(), Addr: net.TCPAddrFromAddrPort(at.AddrPort), Err: err}
	}
	l, err := newListener(f, kind)
	if err != nil {
		return nil, err
	}
	l.Local = target.Endpoint{Network: at.Network, AddrPort: netip.AddrPortFrom(at.Addr(), l.Local.Port())}
	l.Socket = ns.Socket
	return l, nil
}

// bind binds a socket to an address, and listens if it is one for connections.
func bind(fd, family, kind int, to netip.AddrPort) error {
	if family == unix.AF_INET6 { // IPv4 has a listener of its own
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	sockaddr, err := sockaddrOf(fd, family, to)
	if err != nil {
		return err
	}
	if kind == unix.SOCK_STREAM { // or connections that have ended would keep the port for a while
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.Bind(fd, sockaddr); err != nil || kind != unix.SOCK_STREAM {
		return os.NewSyscallError("bind", err)
	}
	return os.NewSyscallError("listen", unix.Listen(fd, backlog))
}

// newListener returns the Listener of a socket that is bound.
func newListener(f *os.File, kind int) (*route.Listener, error) {
	l := &route.Listener{}
	if kind == unix.SOCK_STREAM {
		streams, err := net.FileListener(f)
		if err != nil {
			return nil, err
		}
		l.Streams = streams
		l.Local.AddrPort = streams.Addr().(*net.TCPAddr).AddrPort()
		return l, nil
	}
	packets, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	l.Packets = packets.(*net.UDPConn) // FilePacketConn looked at the socket
	l.Local.AddrPort = l.Packets.LocalAddr().(*net.UDPAddr).AddrPort()
	return l, nil
}
