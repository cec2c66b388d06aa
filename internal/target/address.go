package target

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Network is the kind of port at the remote end. The zero value is TCP.
type Network uint8

// The networks.
const (
	TCP Network = iota
	UDP
	Unix
)

// String returns the name of the network: tcp, udp or unix.
func (n Network) String() string {
	switch n {
	case UDP:
		return "udp"
	case Unix:
		return "unix"
	}
	return "tcp"
}

// ParseNetwork reads what String returns.
func ParseNetwork(s string) (Network, bool) {
	for _, n := range []Network{TCP, UDP, Unix} {
		if s == n.String() {
			return n, true
		}
	}
	return 0, false
}

// Address is what a connection is made to at a target: a port or a Unix socket of the target
// itself, or a port of a host as the target sees it.
type Address struct {
	Network Network
	Host    string // of TCP and UDP: a name or an IP address; "" is the target's own loopback
	Port    uint16 // of TCP and UDP
	Path    string // of Unix, as the target sees it
}

// TCPPort returns the address of a TCP port of the target itself.
func TCPPort(number uint16) Address { return Address{Port: number} }

// TCPOnly returns the number of a TCP port of the target itself. Other addresses are an error,
// ErrUnsupported: a Dialer that reaches nothing else begins with it.
func (a Address) TCPOnly() (uint16, error) {
	if a.Network != TCP || a.Host != "" {
		return 0, fmt.Errorf("%s: %w", a, ErrUnsupported)
	}
	return a.Port, nil
}

// String returns the form that REMOTE has in ParsePorts: 8080, 53/udp, db:5432 or /run/x.sock.
func (a Address) String() string {
	if a.Network == Unix {
		return a.Path
	}
	text := strconv.Itoa(int(a.Port))
	if a.Host != "" {
		text = net.JoinHostPort(a.Host, text)
	}
	if a.Network == UDP {
		text += "/udp"
	}
	return text
}

// Named returns String with what it is before it, as in messages: "port 8080", "port 53/udp",
// "socket /run/x.sock".
func (a Address) Named() string {
	if a.Network == Unix {
		return "socket " + a.String()
	}
	return "port " + a.String()
}

// Endpoint is an end of a connection on this machine: what is listened on, or who connected.
type Endpoint struct {
	Network        Network
	netip.AddrPort        // of TCP and UDP
	Path           string // of a Unix socket that is listened on; "" for its clients, which have no name
}

// String returns the form that LOCAL has in ParsePorts, with the network of UDP behind it:
// 127.0.0.1:8080, 127.0.0.1:53/udp or ./x.sock. It is "" for a client of a Unix socket.
func (e Endpoint) String() string {
	switch {
	case e.Network == Unix:
		return e.Path
	case !e.IsValid():
		return ""
	case e.Network == UDP:
		return e.AddrPort.String() + "/udp"
	}
	return e.AddrPort.String()
}

// Short returns String without the address: 8080, 53/udp or ./x.sock.
func (e Endpoint) Short() string {
	return Address{Network: e.Network, Port: e.Port(), Path: e.Path}.String()
}
