package nonblock

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize is how many datagrams are received or sent by one call.
	batchSize = 32
	// maxControl is room for the control messages that are asked for here (cmsg(3)).
	maxControl = 64
)

// Datagrams receives and sends the datagrams of a socket of package net in batches, by
// recvmmsg(2) and sendmmsg(2). Both may be called from any number of goroutines at the same
// time. Deadlines and Close remain those of the socket.
type Datagrams struct {
	raw  syscall.RawConn
	lost atomic.Uint32 // the kernel's count, of the last datagram
}

// NewDatagrams returns the Datagrams of a socket.
func NewDatagrams(c syscall.Conn) (*Datagrams, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Where it fails, nothing is known of what was lost.
	err = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) })
	return &Datagrams{raw: raw}, err
}

// Batch is what one call has received.
type Batch struct {
	headers  [batchSize]messageHeader
	vectors  [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6
	controls [batchSize][maxControl]byte
	memory   [batchSize][MaxDatagram]byte
	all      [batchSize][]byte
	n        int
	lost     uint32
}

// messageHeader is mmsghdr of recvmmsg(2).
type messageHeader struct {
	unix.Msghdr
	size uint32 // of the datagram
}

// batches are lent only while there is something in them: a socket that waits needs none.
var batches = sync.Pool{New: func() any {
	b := new(Batch)
	for i := range b.headers {
		h := &b.headers[i]
		b.vectors[i] = unix.Iovec{Base: &b.memory[i][0]}
		b.vectors[i].SetLen(MaxDatagram)
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.Control = &b.controls[i][0]
	}
	return b
}}

// Receive waits for datagrams and calls deliver with those that there are, which are valid until
// it returns.
func (d *Datagrams) Receive(deliver func(*Batch)) error {
	var b *Batch
	var failed error
	err := d.raw.Read(func(fd uintptr) bool {
		b = batches.Get().(*Batch)
		if failed = b.fill(int(fd)); failed != nil {
			batches.Put(b)
		}
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvmmsg", failed)}
	}
	defer batches.Put(b)
	if count, ok := b.overflows(); ok {
		b.lost = count - d.lost.Swap(count)
	}
	deliver(b)
	return nil
}

// overflows returns how many datagrams the socket had no room for before the last one of these
// (SO_RXQ_OVFL of socket(7)). The kernel does not tell while there were none.
func (b *Batch) overflows() (count uint32, ok bool) {
	for control := b.Control(b.n - 1); len(control) >= unix.SizeofCmsghdr; {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if header.Level == unix.SOL_SOCKET && header.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			return binary.NativeEndian.Uint32(data), true
		}
		control = rest
	}
	return 0, false
}

func (b *Batch) fill(fd int) error {
	for i := range b.headers {
		b.headers[i].Namelen = unix.SizeofSockaddrInet6
		b.headers[i].SetControllen(maxControl)
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.headers[0])), batchSize, 0, 0, 0)
		if errno == 0 {
			b.n, b.lost = int(n), 0
			for i := range b.n {
				b.all[i] = b.memory[i][:b.headers[i].size]
			}
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// All are the datagrams.
func (b *Batch) All() [][]byte { return b.all[:b.n] }

// Lost is how many datagrams the socket had no room for since the batch before.
func (b *Batch) Lost() int { return int(b.lost) }

// Control are the control messages of datagram i.
func (b *Batch) Control(i int) []byte { return b.controls[i][:b.headers[i].Controllen] }

// From is who has sent datagram i. The zone of an address is the interface's number.
func (b *Batch) From(i int) netip.AddrPort {
	name := &b.names[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	switch name.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16(name.Addr)
		if name.Scope_id != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
		}
		return netip.AddrPortFrom(addr, port)
	}
	return netip.AddrPort{}
}

// outgoing is what one call sends.
type outgoing struct {
	headers [batchSize]messageHeader
	vectors [batchSize]unix.Iovec
	name    unix.RawSockaddrInet6
	size    uint32 // of name
	control []byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// Send sends datagrams, all to one address with the same control messages; without an address, to
// where the socket is connected. n of them were sent; the error is that of the next one. It waits
// while the socket is full.
func (d *Datagrams) Send(datagrams [][]byte, to netip.AddrPort, control []byte) (n int, err error) {
	return d.send(datagrams, to, control, true)
}

// TrySend is Send to where the socket is connected, without waiting: the error of a full socket is
// EAGAIN.
func (d *Datagrams) TrySend(datagrams [][]byte) (n int, err error) {
	return d.send(datagrams, netip.AddrPort{}, nil, false)
}

func (d *Datagrams) send(datagrams [][]byte, to netip.AddrPort, control []byte, wait bool) (n int, err error) {
	o := outgoings.Get().(*outgoing)
	defer func() { *o = outgoing{}; outgoings.Put(o) }()
	o.address(to)
	o.control = control
	var failed error
	err = d.raw.Write(func(fd uintptr) bool {
		for n < len(datagrams) && failed == nil {
			var m int
			m, failed = o.send(int(fd), datagrams[n:min(n+batchSize, len(datagrams))])
			n += m
		}
		if wait && errors.Is(failed, unix.EAGAIN) {
			failed = nil
			return false
		}
		return true
	})
	if err == nil && failed != nil {
		err = &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmmsg", failed)}
	}
	return n, err
}

// address fills in the address to send to.
func (o *outgoing) address(to netip.AddrPort) {
	if !to.IsValid() {
		return
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&o.name.Port))[:], to.Port())
	if to.Addr().Is4() {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&o.name))
		name.Family, name.Addr = unix.AF_INET, to.Addr().As4()
		o.size = unix.SizeofSockaddrInet4
		return
	}
	scope, _ := strconv.ParseUint(to.Addr().Zone(), 10, 32)
	o.name.Family, o.name.Addr, o.name.Scope_id = unix.AF_INET6, to.Addr().As16(), uint32(scope)
	o.size = unix.SizeofSockaddrInet6
}

// send sends as many as the socket takes.
func (o *outgoing) send(fd int, datagrams [][]byte) (int, error) {
	for i, p := range datagrams {
		o.vectors[i].Base = unsafe.SliceData(p)
		o.vectors[i].SetLen(len(p))
		h := &o.headers[i]
		h.Iov = &o.vectors[i]
		h.SetIovlen(1)
		if o.size > 0 {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.name)), o.size
		}
		if len(o.control) > 0 {
			h.Control = &o.control[0]
			h.SetControllen(len(o.control))
		}
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&o.headers[0])), uintptr(len(datagrams)), 0, 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}
