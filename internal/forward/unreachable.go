package forward

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// sendUnreachable tells the client of a UDP port of this machine that the port is closed, by
// ICMP's "port unreachable", which its program sees as a refused connection (udp(7)). It needs
// the capability NET_RAW, and does nothing without. inside is that of the port's Listener.
func sendUnreachable(inside func(func() error) error, port, client netip.AddrPort) {
	network := "ip4:icmp"
	message := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 3}
	if client.Addr().Is6() {
		network = "ip6:ipv6-icmp"
		message = icmp.Message{Type: ipv6.ICMPTypeDestinationUnreachable, Code: 4}
	}
	message.Body = &icmp.DstUnreach{Data: quoteDatagram(client, port)}
	text, err := message.Marshal(nil)
	if err != nil {
		return
	}
	var conn *icmp.PacketConn
	open := func() (err error) {
		conn, err = icmp.ListenPacket(network, port.Addr().String())
		return err
	}
	if inside == nil {
		err = open()
	} else {
		err = inside(open)
	}
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.WriteTo(text, &net.IPAddr{IP: client.Addr().AsSlice(), Zone: client.Addr().Zone()})
}

// quoteDatagram returns the headers of a datagram, as much of it as ICMP needs to find who has
// sent it (RFC 792, RFC 4443).
func quoteDatagram(from, to netip.AddrPort) []byte {
	const udp, udpHeader, hops = 17, 8, 64
	var b []byte
	if from.Addr().Is4() {
		b = append(b, 0x45, 0, 0, ipv4.HeaderLen+udpHeader, 0, 0, 0, 0, hops, udp, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0, 0, udpHeader, udp, hops)
	}
	b = append(b, from.Addr().AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	return append(b, 0, udpHeader, 0, 0)
}
