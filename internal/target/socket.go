package target

import "strings"

// Socket is one of a target that waits for connections or datagrams, as the kernel there lists it.
type Socket struct {
	Endpoint        // what it is bound to; an unspecified address is all addresses of its family
	UID      uint32 // of its owner, as the kernel that lists it counts them
	Inode    uint32 // its number in that kernel
	PID      int    // of a process that has it open; 0 where that cannot be seen
	Command  string // that process' name, 15 bytes at most; "" where that cannot be seen
}

// Address returns what a connection to the socket is made to. On the target's loopback, which Address has
// without a host, are 127.0.0.1, ::1 and sockets of all addresses.
func (s Socket) Address() Address {
	if s.Network == Unix {
		return Address{Network: Unix, Path: s.Path}
	}
	a := Address{Network: s.Network, Port: s.Port()}
	if ip := s.Addr().Unmap(); !ip.IsUnspecified() && ip.String() != "127.0.0.1" && ip.String() != "::1" {
		a.Host = ip.String()
	}
	return a
}

// CompareSockets orders sockets as a person looks for them: by network, number, path and address.
func CompareSockets(a, b Socket) int {
	switch {
	case a.Network != b.Network:
		return int(a.Network) - int(b.Network)
	case a.Port() != b.Port():
		return int(a.Port()) - int(b.Port())
	case a.Path != b.Path:
		return strings.Compare(a.Path, b.Path)
	case a.Addr() != b.Addr():
		return a.Addr().Compare(b.Addr())
	}
	return int(int64(a.Inode) - int64(b.Inode))
}
