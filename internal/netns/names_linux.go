package netns

import (
	"context"
	"net"
	"net/netip"

	"porthole.dev/porthole/internal/resolver"
)

// lookup returns the addresses of a host as programs inside find them: with their files, and name
// servers that are asked from inside.
func (ns *Namespace) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	r := resolver.Resolver{
		ReadFile: func(name string) ([]byte, error) { return ns.readEtc(ctx, name) },
		Dial:     ns.dialServer,
	}
	return r.Lookup(ctx, host)
}

// dialServer connects to a name server.
func (ns *Namespace) dialServer(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	if network == "tcp" {
		return ns.dialAddr(ctx, server)
	}
	return ns.dialUDP([]netip.AddrPort{server})
}
