package manifest

import (
	"net/netip"

	"porthole.dev/porthole/internal/target"
)

// claims are the local addresses and ports that are taken, and the line that took each.
type claims struct {
	taken map[netip.AddrPort]int
	// first is by port, at the unspecified address of a family: the line that
	// was the first to take it at any address of that family.
	first map[netip.AddrPort]int
}

func newClaims() claims {
	return claims{taken: map[netip.AddrPort]int{}, first: map[netip.AddrPort]int{}}
}

// take returns the line that has taken a already, or takes it for line and returns 0.
// The unspecified address conflicts with every other one of its family, as in bind(2).
func (c claims) take(a netip.AddrPort, line int) int {
	all := netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port())
	if a.Addr().Is4() {
		all = netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
	}
	switch {
	case a == all && c.first[all] > 0:
		return c.first[all]
	case c.taken[a] > 0:
		return c.taken[a]
	case c.taken[all] > 0:
		return c.taken[all]
	case c.first[all] == 0:
		c.first[all] = line
	}
	c.taken[a] = line
	return 0
}

// expand returns the addresses that a parsed address stands for.
func expand(address string) []netip.Addr {
	if address == target.Localhost {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return []netip.Addr{netip.MustParseAddr(address)}
}
