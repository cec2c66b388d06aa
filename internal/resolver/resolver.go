// Package resolver looks up the addresses of hosts as the programs of another place do, by its hosts and resolv.conf files.
// It must not know where that is, nor how its files are opened and its name servers reached. Nothing that they say is trusted.
package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"porthole.dev/porthole/internal/target"
)

// Resolver looks hosts up, without a cache: the files and the servers are asked each time.
// Both fields are needed.
type Resolver struct {
	// ReadFile reads hosts or resolv.conf. A file that does not exist counts as an empty one
	// (fs.ErrNotExist). Lookup returns other errors as they are.
	ReadFile func(name string) ([]byte, error)
	// Dial connects to a name server, by udp or tcp. A *net.OpError means that this server cannot
	// be reached. With any other error none can be, and Lookup returns it.
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
}

// Limits of what is taken from the files and the servers. Where the C library has limits
// (resolv.conf(5)), these are the same.
const (
	maxServers  = 3
	maxSearch   = 32
	maxTimeout  = 30 * time.Second
	maxAttempts = 5
	maxAliases  = 16 // CNAMEs from a name to its addresses
	maxAddrs    = 16 // that one host may have
)

var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// Lookup returns the addresses of a host, those of IPv4 first: 16 at most, and one at least.
// An IP address is its own, and localhost is the loopback (RFC 6761, section 6.3). The name
// is looked for in hosts first, and then asked for with the search list. The error is a *net.DNSError: a
// target.ErrNoHost with IsNotFound if there is no such host or it has no address; else a
// target.ErrLookup, with IsTimeout if no server has answered, and IsTemporary if one has failed.
func (r *Resolver) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if isLocalhost(host) {
		return slices.Clone(loopbacks), nil
	}
	addrs, err := r.inHosts(host)
	if err == nil && len(addrs) == 0 {
		addrs, err = r.ask(ctx, host)
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs[:min(len(addrs), maxAddrs)], err
}

func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// inHosts returns the addresses that the hosts file has for a host.
func (r *Resolver) inHosts(host string) ([]netip.Addr, error) {
	data, err := r.readFile("hosts")
	if err != nil {
		return nil, fmt.Errorf("lookup %s: %w", host, err)
	}
	return parseHosts(data, host), nil
}

// ask asks the name servers.
func (r *Resolver) ask(ctx context.Context, host string) ([]netip.Addr, error) {
	data, err := r.readFile("resolv.conf")
	if err != nil {
		return nil, fmt.Errorf("lookup %s: %w", host, err)
	}
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("lookup %s: %w", host, err)
	}
	return newLookup(r.Dial, conf, host).addresses(ctx)
}

func (r *Resolver) readFile(name string) ([]byte, error) {
	data, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// notFound is the error of a host that does not exist, or has no address.
func notFound(host, servers, text string) *net.DNSError {
	return &net.DNSError{UnwrapErr: target.ErrNoHost, Err: text, Name: host, Server: servers, IsNotFound: true}
}

// failure is the error of a lookup that has found out nothing.
func failure(host, servers, text string) *net.DNSError {
	return &net.DNSError{UnwrapErr: target.ErrLookup, Err: text, Name: host, Server: servers}
}
