package container

import (
	"net/netip"
	"slices"

	"porthole.dev/porthole/internal/target"
)

// dockerDNS is where Docker's engine itself answers DNS queries inside each container of a network that a user has made, as
// those of Compose are: at ports of its own choice, by UDP and TCP, and as root (github.com/moby/moby, libnetwork/resolver.go).
var dockerDNS = netip.MustParseAddr("127.0.0.11")

// withoutDockerDNS leaves out what listens in the container without being the container's.
func withoutDockerDNS(engine target.Scheme, sockets []target.Socket) []target.Socket {
	if engine != target.Docker {
		return sockets
	}
	return slices.DeleteFunc(sockets, func(s target.Socket) bool { return s.Addr() == dockerDNS })
}
