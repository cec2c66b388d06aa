package forward

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// sendUnreachable tells the client of a UDP port of this machine that the port is closed, by
// ICMP's "port unreachable", which its program sees as a refused connection (udp(7)). It needs
// the capability NET_RAW, and does nothing without. socket is that of the port's Listener.
func sendUnreachable(socket func(domain, kind, protocol int) (int, error), port, client netip.AddrPort) {
	network, domain, protocol := "ip4:icmp", syscall.AF_INET, 1
	message := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 3}
	if client.Addr().Is6() {
		network, domain, protocol = "ip6:ipv6-icmp", syscall.AF_INET6, 58
		message = icmp.Message{Type: ipv6.ICMPTypeDestinationUnreachable, Code: 4}
	}
	message.Body = &icmp.DstUnreach{Data: quoteDatagram(client, port)}
	text, err := message.Marshal(nil)
	if err != nil {
		return
	}
	var conn net.PacketConn
	if socket == nil {
		conn, err = net.ListenPacket(network, "")
	} else {
		conn, err = listenRaw(socket, domain, protocol)
	}
	if err != nil {
		return
	}
	defer conn.Close()
	to := &net.IPAddr{IP: client.Addr().AsSlice(), Zone: client.Addr().Zone()}
	_, _, _ = conn.(*net.IPConn).WriteMsgIP(text, source(port.Addr()), to)
}

// listenRaw is net.ListenPacket for raw sockets that socket makes.
func listenRaw(socket func(domain, kind, protocol int) (int, error), domain, protocol int) (net.PacketConn, error) {
	fd, err := socket(domain, syscall.SOCK_RAW, protocol)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "icmp")
	defer f.Close()
	return net.FilePacketConn(f)
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
