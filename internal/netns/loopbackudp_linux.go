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
	"porthole.dev/porthole/internal/pipe"
)

// loopbackUDP sends datagrams to a port of a namespace's loopback, at 127.0.0.1 or ::1. Where
// somebody listens shows only after the first datagram: a refusal comes back from the kernel
// at once, and it is then sent to the other address. It is a pipe.Conn of datagrams: each Read
// returns one, and each Write sends one.
type loopbackUDP struct {
	*net.UDPConn
	raw     interface{ Control(func(fd uintptr)) error }
	batches *nonblock.Datagrams
	port    uint16

	settled atomic.Bool // something was received: the address is right

	mu      sync.Mutex
	refused int    // how often; it is at the address of that index of loopbacks
	last    []byte // the datagram to send again; not kept once settled
}

// dialUDP makes a socket for datagrams to a port of the namespace's own loopback.
func (ns *Namespace) dialUDP(port uint16) (pipe.Conn, error) {
	var fd int
	// One socket for both families, since it is connected anew to change the address.
	err := ns.Do(func() (err error) {
		const kind = unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
		if fd, err = unix.Socket(unix.AF_INET6, kind, unix.IPPROTO_UDP); errors.Is(err, unix.EAFNOSUPPORT) {
			fd, err = unix.Socket(unix.AF_INET, kind, unix.IPPROTO_UDP)
		}
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	if err := connectUDP(fd, netip.AddrPortFrom(loopbacks[0], port)); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	udp := conn.(*net.UDPConn) // FileConn looked at the socket
	raw, err := udp.SyscallConn()
	if err != nil {
		udp.Close()
		return nil, err
	}
	batches, err := nonblock.NewDatagrams(udp)
	if err != nil {
		udp.Close()
		return nil, err
	}
	return &loopbackUDP{UDPConn: udp, raw: raw, batches: batches, port: port}, nil
}

// connectUDP connects a socket of either family to an address of either, from wherever it
// was connected to.
func connectUDP(fd int, to netip.AddrPort) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	var sockaddr unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if family == unix.AF_INET {
		if to.Addr().Is6() {
			return os.NewSyscallError("connect", unix.EAFNOSUPPORT)
		}
		sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
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
func (c *loopbackUDP) refusal(err error) error {
	return &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopbacks[0], c.port)), Err: err}
}

// Read returns one datagram. ECONNREFUSED means that nobody listens, at either address.
func (c *loopbackUDP) Read(p []byte) (n int, err error) {
	err = c.read(func() (err error) {
		n, err = c.UDPConn.Read(p)
		return err
	})
	return n, err
}

// ReadDatagrams implements pipe.DatagramBatcher. Its errors are those of Read.
func (c *loopbackUDP) ReadDatagrams(deliver func(datagrams [][]byte, lost int)) error {
	return c.read(func() error {
		return c.batches.Receive(func(b *nonblock.Batch) { deliver(b.All(), b.Lost()) })
	})
}

// read calls receive until that has received something, or nobody listens at either address.
func (c *loopbackUDP) read(receive func() error) error {
	for {
		err := receive()
		switch {
		case err == nil && !c.settled.Load():
			c.settle()
			return nil
		case !errors.Is(err, unix.ECONNREFUSED):
			return err
		case c.settled.Load():
			return c.refusal(os.NewSyscallError("read", unix.ECONNREFUSED))
		}
		c.mu.Lock()
		if err = c.refusal(os.NewSyscallError("read", unix.ECONNREFUSED)); c.next() {
			_, err = c.send()
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// Write sends one datagram.
func (c *loopbackUDP) Write(p []byte) (int, error) {
	if c.settled.Load() {
		return c.UDPConn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last[:0], p...)
	return c.send()
}

// WriteDatagrams implements pipe.DatagramBatcher.
func (c *loopbackUDP) WriteDatagrams(datagrams [][]byte) (n int, err error) {
	if c.settled.Load() {
		return c.batches.Send(datagrams, netip.AddrPort{}, nil)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last[:0], datagrams[0]...) // which finds the address for those behind it
	if _, err := c.send(); err != nil {
		return 0, err
	}
	n, err = c.batches.Send(datagrams[1:], netip.AddrPort{}, nil)
	c.last = append(c.last[:0], datagrams[n]...)
	return n + 1, err
}

// CloseWrite does nothing: datagrams have no end.
func (c *loopbackUDP) CloseWrite() error { return nil }

// settle stays with the address.
func (c *loopbackUDP) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled.Store(true)
	c.last = nil
}

// send sends the last datagram, and again to the other address if this one refuses it; c.mu
// is held.
func (c *loopbackUDP) send() (n int, err error) {
	for {
		if n, err = c.UDPConn.Write(c.last); err == nil {
			err = c.pending()
		}
		switch {
		case !errors.Is(err, unix.ECONNREFUSED):
			return n, err
		case !c.next():
			return 0, c.refusal(os.NewSyscallError("write", unix.ECONNREFUSED))
		}
	}
}

// pending returns the error that the socket has got since; c.mu is held.
func (c *loopbackUDP) pending() (failed error) {
	err := c.raw.Control(func(fd uintptr) {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			failed = os.NewSyscallError("send", unix.Errno(code))
		}
	})
	return errors.Join(failed, err)
}

// next connects to the next address, and reports whether it is another one than those that
// have refused; c.mu is held.
func (c *loopbackUDP) next() bool {
	c.refused++
	at := c.refused % len(loopbacks)
	var failed error
	err := c.raw.Control(func(fd uintptr) { failed = connectUDP(int(fd), netip.AddrPortFrom(loopbacks[at], c.port)) })
	return at != 0 && err == nil && failed == nil
}
