package forward

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"porthole.dev/porthole/internal/route"
)

// readBuffer is how many bytes may wait in the socket of a UDP port, of all its clients.
const readBuffer = 4 << 20

// peer is a client of a UDP port.
type peer struct {
	netip.AddrPort
	// at is the address of this machine that it sends to, and that answers have to come from.
	// It is set only where the listener is bound to all addresses.
	at netip.Addr
}

// packetSocket is the socket of a UDP port.
type packetSocket struct {
	*net.UDPConn
	batches
	local netip.AddrPort
	all   bool // it is bound to all addresses
	// socket is that of its Listener, or nil
	socket func(domain, kind, protocol int) (fd int, err error)
}

func newPacketSocket(l *route.Listener) (*packetSocket, error) {
	c := l.Packets
	_ = c.SetReadBuffer(readBuffer) // as much of it as the kernel allows
	s := &packetSocket{UDPConn: c, local: c.LocalAddr().(*net.UDPAddr).AddrPort(), socket: l.Socket}
	var err error
	if s.batches, err = newBatches(c); err != nil {
		return nil, err
	}
	if s.all = s.local.Addr().IsUnspecified(); !s.all {
		return s, nil
	}
	// Where it fails, the kernel chooses the address that answers come from.
	if s.local.Addr().Is4() {
		_ = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst, true)
	} else {
		_ = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst, true)
	}
	return s, nil
}

// destination returns the address that a datagram was sent to, if the kernel tells.
func (s *packetSocket) destination(control []byte) netip.Addr {
	if !s.all {
		return netip.Addr{}
	}
	var dst net.IP
	if s.local.Addr().Is4() {
		var m ipv4.ControlMessage
		if m.Parse(control) == nil {
			dst = m.Dst.To4()
		}
	} else {
		var m ipv6.ControlMessage
		if m.Parse(control) == nil {
			dst = m.Dst
		}
	}
	at, _ := netip.AddrFromSlice(dst)
	return at
}

// source returns the control message that makes the kernel send from an address.
func source(at netip.Addr) []byte {
	switch {
	case !at.IsValid():
		return nil
	case at.Is4():
		return (&ipv4.ControlMessage{Src: at.AsSlice()}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: at.AsSlice()}).Marshal()
}

// refuse makes the client's host report that nobody listens, as it would for a port of this machine.
func (s *packetSocket) refuse(client peer) {
	at := s.local.Addr()
	if s.all {
		at = client.at
	}
	if at.IsValid() {
		sendUnreachable(s.socket, netip.AddrPortFrom(at, s.local.Port()), client.AddrPort)
	}
}
