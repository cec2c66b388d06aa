package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"porthole.dev/porthole/internal/resolver"
)

// RefuseNames keeps hosts that are given by their names from leading to some addresses, such as
// those that only mean something to this machine: whoever answers for a name chooses them. A literal address
// is the caller's own choice and passes. Call it before others use ns.
func (ns *Namespace) RefuseNames(refuse func(a netip.Addr) bool) { ns.refuse = refuse }

// lookup returns the addresses of a host as programs inside find them: with their files, and name
// servers that are asked from inside.
func (ns *Namespace) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	r := resolver.Resolver{
		ReadFile: func(name string) ([]byte, error) { return ns.readEtc(ctx, name) },
		Dial:     ns.dialServer,
	}
	addrs, err := r.Lookup(ctx, host)
	if _, literal := netip.ParseAddr(host); err != nil || literal == nil || ns.refuse == nil {
		return addrs, err
	}
	if addrs = slices.DeleteFunc(addrs, ns.refuse); len(addrs) == 0 {
		return nil, fmt.Errorf("lookup %s: %w", host, ErrRefusedAddress)
	}
	return addrs, nil
}

// dialServer connects to a name server.
func (ns *Namespace) dialServer(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	if network == "tcp" {
		return ns.dialAddr(ctx, server)
	}
	return ns.dialUDP([]netip.AddrPort{server})
}
