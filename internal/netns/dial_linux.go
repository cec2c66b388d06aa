package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// loopbacks are tried one after the other. They are literals: `localhost`
// would be looked up with the host's resolver, not the namespace's.
var loopbacks = [...]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// Dial connects to a TCP port, and to nothing else yet, on the namespace's own loopback, 127.0.0.1 and
// then ::1. The socket is made inside; connecting and everything after happens
// outside, so that no thread stays behind. The Conn is a *net.TCPConn. The error is
// that of 127.0.0.1: an *net.OpError, with syscall.ECONNREFUSED when nothing listens on either, or
// one of this package's own when the namespace cannot be entered.
func (ns *Namespace) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	switch {
	case to.Network == target.Unix:
		return ns.dialUnix(ctx, to.Path)
	case to.Network == target.UDP && to.Host == "":
		return ns.dialUDP(to.Port)
	}
	port, err := to.TCPOnly()
	if err != nil {
		return nil, err
	}
	var first error
	for _, addr := range loopbacks {
		conn, err := ns.dialAddr(ctx, netip.AddrPortFrom(addr, port))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			break // no interface, no namespace, no time left: ::1 would not do better
		}
	}
	return nil, first
}

func (ns *Namespace) dialAddr(ctx context.Context, addr netip.AddrPort) (pipe.Conn, error) {
	var fd int
	var sockaddr unix.Sockaddr
	family := unix.AF_INET
	if ip, port := addr.Addr(), int(addr.Port()); ip.Is4() {
		sockaddr = &unix.SockaddrInet4{Port: port, Addr: ip.As4()}
	} else {
		family, sockaddr = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: ip.As16()}
	}
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	// The file is registered with the runtime's poller, because the
	// descriptor does not block; FileConn makes a descriptor of its own.
	f := os.NewFile(uintptr(fd), addr.String())
	defer f.Close()
	if err := connect(ctx, f, sockaddr); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	// The kernel may choose the very port that is dialed for the near end, and a SYN
	// that comes back to where it is from opens a connection (RFC 9293, section 3.5):
	// nobody listens there, and what is written would be read again.
	tcp := conn.(*net.TCPConn) // FileConn looked at the socket
	if tcp.LocalAddr().(*net.TCPAddr).AddrPort() == tcp.RemoteAddr().(*net.TCPAddr).AddrPort() {
		_ = pipe.Reset(tcp) // TIME_WAIT would keep the port from the server that is awaited
		err := os.NewSyscallError("connect", unix.ECONNREFUSED)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return tcp, nil
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
