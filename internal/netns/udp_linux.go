package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
)

// udpConn sends datagrams to one of some addresses, such as 127.0.0.1 or ::1. Where
// somebody listens shows only after the first datagram: a refusal comes back from the kernel,
// and it is then sent to the next address. It is a pipe.Conn of datagrams: each Read
// returns one, and each Write sends one.
type udpConn struct {
	*net.UDPConn
	raw     interface{ Control(func(fd uintptr)) error }
	batches *nonblock.Datagrams
	addrs   []netip.AddrPort

	settled atomic.Bool // something was received: the address is right

	mu   sync.Mutex
	at   int    // the index in addrs of the address that it is connected to
	last []byte // the datagram to send again; not kept once settled
}

// dialUDP makes a socket for datagrams to the first of some addresses that there is a way to.
// The error of connecting is a *net.OpError.
func (ns *Namespace) dialUDP(addrs []netip.AddrPort) (*udpConn, error) {
	// One socket for both families, since it is connected anew to change the address.
	fd, err := ns.Socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = ns.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	// A namespace may have net.ipv6.bindv6only. It does nothing to a socket of IPv4.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	c := &udpConn{addrs: addrs, at: -1}
	if ok, err := c.connectNext(fd); !ok {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	c.UDPConn = conn.(*net.UDPConn) // FileConn looked at the socket
	if c.raw, err = c.SyscallConn(); err != nil {
		c.Close()
		return nil, err
	}
	if c.batches, err = nonblock.NewDatagrams(c.UDPConn); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// connectNext connects to the next address that there is a way to, and reports whether there is
// one. The error is that of the first address without.
func (c *udpConn) connectNext(fd int) (ok bool, first error) {
	for c.at++; c.at < len(c.addrs); c.at++ {
		err := connectUDP(fd, c.addrs[c.at])
		if err == nil {
			return true, nil
		}
		if first == nil {
			first = &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(c.addrs[c.at]), Err: err}
		}
	}
	return false, first
}

// connectUDP connects a socket of either family to an address of either, from wherever it
// was connected to.
func connectUDP(fd int, to netip.AddrPort) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	sockaddr, err := sockaddrOf(fd, family, to)
	if err != nil {
		return err
	}
	for range 2 {
		disconnectUDP(fd)
		if err := unix.Connect(fd, sockaddr); err != nil {
			return os.NewSyscallError("connect", err)
		}
		// The kernel may choose the very port that is connected to for this end.
		if near, err := unix.Getsockname(fd); err == nil && portOf(near) != int(to.Port()) {
			break
		}
	}
	return nil
}

// disconnectUDP makes the kernel forget the address to send from, which it has chosen for the
// last address to send to (connect(2), AF_UNSPEC). There is no way to it in package unix.
func disconnectUDP(fd int) {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
}

func portOf(a unix.Sockaddr) int {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}

// refusal is the error of a datagram for which nobody listened.
func (c *udpConn) refusal(op string) error {
	err := os.NewSyscallError(op, unix.ECONNREFUSED)
	return &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(c.addrs[0]), Err: err}
}

// Read returns one datagram. ECONNREFUSED means that nobody listens, at any address.
func (c *udpConn) Read(p []byte) (n int, err error) {
	err = c.read(func() (err error) {
		n, err = c.UDPConn.Read(p)
		return err
	})
	return n, err
}

// ReadDatagrams is for pipe.DatagramReader. Its errors are those of Read.
func (c *udpConn) ReadDatagrams(deliver func(datagrams [][]byte, lost int)) error {
	return c.read(func() error {
		return c.batches.Receive(func(b *nonblock.Batch) { deliver(b.All(), b.Lost()) })
	})
}

// read calls receive until that has received something, or nobody listens at any address.
func (c *udpConn) read(receive func() error) error {
	for {
		err := receive()
		switch {
		case err == nil && !c.settled.Load():
			c.settle()
			return nil
		case !errors.Is(err, unix.ECONNREFUSED):
			return err
		case c.settled.Load():
			return c.refusal("read")
		}
		c.mu.Lock()
		if err = c.refusal("read"); c.next() {
			_, err = c.send()
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// Write sends one datagram.
func (c *udpConn) Write(p []byte) (int, error) {
	if c.settled.Load() {
		return c.UDPConn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last[:0], p...)
	return c.send()
}

// WriteDatagrams is for pipe.DatagramWriter.
func (c *udpConn) WriteDatagrams(datagrams [][]byte) (n int, err error) {
	if c.settled.Load() {
		return c.batches.TrySend(datagrams)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last[:0], datagrams[0]...) // which finds the address for those behind it
	if _, err := c.send(); err != nil {
		return 0, err
	}
	n, err = c.batches.TrySend(datagrams[1:])
	c.last = append(c.last[:0], datagrams[n]...)
	return n + 1, err
}

// CloseWrite does nothing: datagrams have no end.
func (c *udpConn) CloseWrite() error { return nil }

// settle stays with the address.
func (c *udpConn) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled.Store(true)
	c.last = nil
}

// send sends the last datagram, and again to the next address if this one refuses it; c.mu
// is held.
func (c *udpConn) send() (n int, err error) {
	for {
		if _, err = c.batches.TrySend([][]byte{c.last}); err == nil {
			err = c.pending()
		}
		switch {
		case err == nil:
			return len(c.last), nil
		case !errors.Is(err, unix.ECONNREFUSED):
			return 0, err
		case !c.next():
			return 0, c.refusal("write")
		}
	}
}

// pending returns the error that the socket has got since; c.mu is held.
func (c *udpConn) pending() (failed error) {
	err := c.raw.Control(func(fd uintptr) {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			failed = os.NewSyscallError("send", unix.Errno(code))
		}
	})
	return errors.Join(failed, err)
}

// next connects to the next address, or after the last one to the first again, and reports
// whether there was a next one; c.mu is held.
func (c *udpConn) next() bool {
	var ok bool
	err := c.raw.Control(func(fd uintptr) {
		if ok, _ = c.connectNext(int(fd)); !ok {
			c.at = -1
			_, _ = c.connectNext(int(fd))
		}
	})
	return ok && err == nil
}
