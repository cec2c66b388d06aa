package target

import (
	"fmt"
	"strconv"
)

// Network is the kind of socket that a port is. The zero value is TCP.
type Network uint8

// The networks.
const (
	TCP Network = iota
	UDP
	Unix
)

func (n Network) String() string {
	switch n {
	case UDP:
		return "udp"
	case Unix:
		return "unix"
	}
	return "tcp"
}

// Address is what a connection is made to, as the target sees it: a port of the
// target's own loopback, or a Unix socket in its file system. Address{Port: 80} is a
// TCP port.
type Address struct {
	Network Network
	Port    uint16 // of TCP and UDP
	Path    string // of Unix
}

// TCPPort returns the address of a TCP port.
func TCPPort(number uint16) Address { return Address{Port: number} }

// TCPOnly returns the number of a TCP port, for a Dialer that reaches no other network.
// Errors: ErrUnsupported.
func (a Address) TCPOnly() (uint16, error) {
	if a.Network != TCP {
		return 0, fmt.Errorf("%s: %w", a, ErrUnsupported)
	}
	return a.Port, nil
}

// String returns the address as it stands in a Port: 80, 53/udp or /run/db.sock.
func (a Address) String() string {
	switch a.Network {
	case Unix:
		return a.Path
	case UDP:
		return strconv.Itoa(int(a.Port)) + "/udp"
	}
	return strconv.Itoa(int(a.Port))
}
