package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/target"
)

// What sock_diag(7) takes and answers; x/sys lacks it. github.com/vishvananda/netlink has it too, but
// dumps sockets of all states, through a socket that it makes by itself.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY of linux/sock_diag.h
	inetRequestSize  = 56 // struct inet_diag_req_v2 of linux/inet_diag.h
	inetMessageSize  = 72 // struct inet_diag_msg
	unixRequestSize  = 24 // struct unix_diag_req of linux/unix_diag.h
	unixMessageSize  = 16 // struct unix_diag_msg, without its attributes
	unixShowNameUID  = 1 | 0x40
	unixName         = 0 // the attributes
	unixUID          = 7

	stateClosed = 7 // of a UDP socket that is not connected (TCP_CLOSE)
	stateListen = 10

	// dumpTime is how long the kernel may take to answer, which it does before recvfrom(2) is called.
	dumpTime = 2 // seconds
)

// dump is one request for a list of sockets.
type dump struct {
	family, protocol uint8
	state            uint8
	module           string // of the kernel, and of what
}

const (
	tcpModule = "tcp_diag of TCP"
	udpModule = "udp_diag of UDP"
)

// sockDiag is the protocol of netlink(7). Tests have one that no kernel has.
var sockDiag = unix.NETLINK_SOCK_DIAG

// dumps are those of everything that can be reached.
var dumps = []dump{
	{unix.AF_INET, unix.IPPROTO_TCP, stateListen, tcpModule},
	{unix.AF_INET6, unix.IPPROTO_TCP, stateListen, tcpModule},
	{unix.AF_INET, unix.IPPROTO_UDP, stateClosed, udpModule},
	{unix.AF_INET6, unix.IPPROTO_UDP, stateClosed, udpModule},
	{unix.AF_UNIX, 0, stateListen, "unix_diag of Unix sockets"},
}

// request returns the message that asks for the list.
func (d dump) request() []byte {
	size := inetRequestSize
	if d.family == unix.AF_UNIX {
		size = unixRequestSize
	}
	order := binary.NativeEndian
	b := order.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+size))
	b = order.AppendUint16(b, sockDiagByFamily)
	b = order.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8+size)...)
	request := b[unix.SizeofNlMsghdr:]
	request[0], request[1] = d.family, d.protocol
	order.PutUint32(request[4:], 1<<d.state)
	if d.family == unix.AF_UNIX {
		order.PutUint32(request[12:], unixShowNameUID)
	}
	return b
}

// list asks for the list through a socket of NETLINK_SOCK_DIAG, into whose namespace it looks.
func (d dump) list(fd int, buffer []byte) (sockets []target.Socket, err error) {
	if err := unix.Sendto(fd, d.request(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return sockets, dumpError(m.Data) // such as ENOENT of a module that is not there
			case unix.NLMSG_ERROR:
				return nil, dumpError(m.Data)
			}
			if s, ok := parseSocket(m.Data); ok {
				sockets = append(sockets, s)
			}
		}
	}
}

// dumpError reads the error that struct nlmsgerr begins with, and the end of a list too (netlink(7)); nil for 0.
func dumpError(data []byte) error {
	if len(data) < 4 {
		return fmt.Errorf("sock_diag: %w", unix.EBADMSG)
	}
	if code := int32(binary.NativeEndian.Uint32(data)); code < 0 {
		return os.NewSyscallError("sock_diag", unix.Errno(-code))
	}
	return nil
}

// parseSocket reads one socket of a list, or reports that it is none which can be reached by its name.
func parseSocket(m []byte) (s target.Socket, ok bool) {
	if len(m) >= unixMessageSize && m[0] == unix.AF_UNIX {
		return parseUnixSocket(m)
	}
	if len(m) < inetMessageSize {
		return s, false
	}
	addr, order := netip.AddrFrom4([4]byte(m[8:12])), binary.NativeEndian
	if m[0] == unix.AF_INET6 {
		addr = netip.AddrFrom16([16]byte(m[8:24])).Unmap()
		if device := order.Uint32(m[40:]); addr.IsLinkLocalUnicast() && device != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(device), 10))
		}
	}
	if m[1] == stateClosed {
		s.Network = target.UDP
	}
	s.AddrPort = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:]))
	s.UID, s.Inode = order.Uint32(m[64:]), order.Uint32(m[68:])
	return s, s.Port() != 0
}

// parseUnixSocket reads a Unix socket. An abstract name begins with a zero byte, and one that is relative to
// its process' folder leads nowhere from here.
func parseUnixSocket(m []byte) (s target.Socket, ok bool) {
	order := binary.NativeEndian
	s.Network, s.Inode = target.Unix, order.Uint32(m[4:])
	if m[1] != unix.SOCK_STREAM {
		return s, false
	}
	for rest := m[unixMessageSize:]; len(rest) >= unix.SizeofNlAttr; {
		size := int(order.Uint16(rest))
		if size < unix.SizeofNlAttr || size > len(rest) {
			return s, false
		}
		value := rest[unix.SizeofNlAttr:size]
		switch kind := order.Uint16(rest[2:]); {
		case kind == unixName:
			s.Path = unix.ByteSliceToString(value)
		case kind == unixUID && len(value) == 4:
			s.UID = order.Uint32(value)
		}
		rest = rest[min(len(rest), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return s, len(s.Path) > 1 && s.Path[0] == '/'
}
