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
	port, err := to.TCPOnly()
	if err != nil {
		return nil, err
	}
	var first error
	for _, addr := range loopbacks {
		conn, err := ns.dial(ctx, netip.AddrPortFrom(addr, port))
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

func (ns *Namespace) dial(ctx context.Context, addr netip.AddrPort) (pipe.Conn, error) {
	fd, err := ns.socket(addr.Addr())
	if err != nil {
		return nil, err
	}
	// The file is registered with the runtime's poller, because the
	// descriptor does not block; FileConn makes a descriptor of its own.
	f := os.NewFile(uintptr(fd), addr.String())
	defer f.Close()
	if err := connect(ctx, f, addr); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn) // FileConn looked at the socket
	if err := refuseItself(tcp); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return tcp, nil
}

// refuseItself ends a connection that has met its own socket. The kernel may choose
// the very port that is dialed for the near end, and a SYN that comes back to where
// it is from opens a connection (RFC 9293, section 3.5): nobody listens there, and
// what is written would be read again.
func refuseItself(conn *net.TCPConn) error {
	near, far := conn.LocalAddr().(*net.TCPAddr), conn.RemoteAddr().(*net.TCPAddr)
	if near.AddrPort() != far.AddrPort() {
		return nil
	}
	_ = conn.SetLinger(0) // TIME_WAIT would keep the port from the server that is awaited
	_ = conn.Close()
	return os.NewSyscallError("connect", unix.ECONNREFUSED)
}

// socket makes a TCP socket inside the namespace.
func (ns *Namespace) socket(addr netip.Addr) (fd int, err error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	err = ns.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return os.NewSyscallError("socket", err)
	})
	if err != nil && fd > 0 {
		_ = unix.Close(fd) // made, but the thread did not come back
	}
	return fd, err
}

// connect connects a socket that does not block, and waits until that is done or ctx ends.
func connect(ctx context.Context, f *os.File, addr netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	started := false
	var cerr error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !started {
			started = true
			if cerr = unix.Connect(int(fd), sockaddr(addr)); !errors.Is(cerr, unix.EINPROGRESS) && !errors.Is(cerr, unix.EINTR) {
				return true
			}
			// Loopback has mostly answered by now, which saves a sleep.
		}
		done, cerr = connected(int(fd))
		return done
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", cerr)
}

// connected reports how a connect in progress came out, and whether it has:
// the poller may wake us early, and SO_ERROR is 0 until then as well.
func connected(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
