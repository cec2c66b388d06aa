package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// loopbacks are tried one after the other. They are literals: `localhost`
// would be looked up with the host's resolver, not the namespace's.
var loopbacks = [...]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// minShare is the least time that one of several addresses gets to answer.
const minShare = 2 * time.Second

// Dial connects to a port on the namespace's own loopback, 127.0.0.1 and then ::1, to one of
// a host as the namespace sees it, or to a Unix socket. The socket is made inside; connecting and
// everything after happens outside, so that no thread stays behind. The Conn is a *net.TCPConn,
// a *net.UnixConn, or of UDP one of datagrams. The error is that of the first
// address: an *net.OpError, with syscall.ECONNREFUSED when nothing listens, a *net.DNSError of
// package resolver when there is no such host, or one of this package's own when the namespace cannot be entered.
func (ns *Namespace) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if to.Network == target.Unix {
		return ns.dialUnix(ctx, to.Path)
	}
	hosts := loopbacks[:]
	if to.Host != "" {
		var err error
		if hosts, err = ns.lookup(ctx, to.Host); err != nil {
			return nil, err
		}
	}
	addrs := make([]netip.AddrPort, len(hosts))
	for i, host := range hosts {
		addrs[i] = netip.AddrPortFrom(host, to.Port)
	}
	if to.Network == target.UDP {
		conn, err := ns.dialUDP(addrs)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	return ns.dialTCP(ctx, addrs)
}

// dialTCP connects to one of some addresses. Each gets its share of the time, so that the last
// one is tried too.
func (ns *Namespace) dialTCP(ctx context.Context, addrs []netip.AddrPort) (pipe.Conn, error) {
	var first error
	for i, addr := range addrs {
		attempt, cancel := ctx, func() {}
		if deadline, ok := ctx.Deadline(); ok && !addr.Addr().IsLoopback() {
			share := time.Until(deadline) / time.Duration(len(addrs)-i)
			attempt, cancel = context.WithTimeout(ctx, max(share, minShare))
		}
		conn, err := ns.dialAddr(attempt, addr)
		cancel()
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil || addr.Addr().IsLoopback() && !errors.Is(err, unix.ECONNREFUSED) {
			break // no interface, no namespace, no time left: ::1 would not do better
		}
	}
	return nil, first
}

// dialAddr connects to an address. The error of connecting is a *net.OpError.
func (ns *Namespace) dialAddr(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := ns.Socket(family, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	// The file is registered with the runtime's poller, because the
	// descriptor does not block; FileConn makes a descriptor of its own.
	f := os.NewFile(uintptr(fd), addr.String())
	defer f.Close()
	sockaddr, err := sockaddrOf(fd, family, addr)
	if err == nil {
		err = connect(ctx, f, sockaddr)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	// The kernel may choose the very port that is dialed for the near end, and a SYN
	// that comes back to where it is from opens a connection (RFC 9293, section 3.5):
	// nobody listens there, and what is written would be read again.
	tcp := conn.(*net.TCPConn)                        // FileConn looked at the socket
	far, connected := tcp.RemoteAddr().(*net.TCPAddr) // none if it has been reset by now, which reading tells
	if connected && far.AddrPort() == tcp.LocalAddr().(*net.TCPAddr).AddrPort() {
		_ = pipe.Reset(tcp) // TIME_WAIT would keep the port from the server that is awaited
		err := os.NewSyscallError("connect", unix.ECONNREFUSED)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return tcp, nil
}

// sockaddrOf returns an address for a socket of a family.
func sockaddrOf(fd, family int, to netip.AddrPort) (unix.Sockaddr, error) {
	ip, port := to.Addr(), int(to.Port())
	switch {
	case family == unix.AF_INET && ip.Is6():
		return nil, os.NewSyscallError("connect", unix.EAFNOSUPPORT)
	case family == unix.AF_INET:
		return &unix.SockaddrInet4{Port: port, Addr: ip.As4()}, nil
	}
	zone, err := zoneOf(fd, ip.Zone())
	return &unix.SockaddrInet6{Port: port, Addr: ip.As16(), ZoneId: zone}, err
}

// zoneOf returns the number of an IPv6 zone: of the interface of that name in the socket's
// namespace (netdevice(7)), if it is not a number already.
func zoneOf(fd int, zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if number, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(number), nil
	}
	request, err := unix.NewIfreq(zone)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	}
	if err != nil {
		return 0, os.NewSyscallError("connect", unix.ENODEV)
	}
	return request.Uint32(), nil
}

// connect connects a socket that does not block, and waits until that is done or ctx ends.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	started := false
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !started {
			started = true
			if failed = unix.Connect(int(fd), to); !errors.Is(failed, unix.EINPROGRESS) && !errors.Is(failed, unix.EINTR) {
				return true
			}
			// Loopback has mostly answered by now, which saves a sleep.
		}
		var code int
		if code, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); failed != nil {
			return true
		}
		if code != 0 {
			failed = unix.Errno(code)
			return true
		}
		// The poller may wake us early, and SO_ERROR is 0 until then as well.
		_, err := unix.Getpeername(int(fd))
		return err == nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", failed)
}
