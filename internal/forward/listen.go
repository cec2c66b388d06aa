package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"porthole.dev/porthole/internal/target"
)

// ErrTwice means that two ports ask for the same local address and port, or Unix socket.
var ErrTwice = errors.New("local port given twice")

// Listener is one local address that leads to one port of the target.
type Listener struct {
	Local  target.Endpoint
	Remote target.Address

	streams net.Listener // of TCP and Unix sockets
	packets *net.UDPConn // of UDP
}

// Close ends listening, and connections through UDP with it.
func (l *Listener) Close() error {
	if l.packets != nil {
		return l.packets.Close()
	}
	return l.streams.Close()
}

// tries is how often the system is asked for another free port, until one is free on
// every address.
const tries = 32

// Listen binds all ports, or none. A port without an address of its own is bound on
// each of addresses, with the same number on all of them, even if the system chooses
// it. target.Localhost means both 127.0.0.1 and ::1, unless the machine lacks one of
// the families. Addresses that others of the list cover are left out.
// Errors: ErrTwice; *net.OpError as net.Listen returns it.
func Listen(ctx context.Context, addresses []string, ports []target.Port) (ls []*Listener, err error) {
	defer func() {
		if err != nil {
			CloseAll(ls)
		}
	}()
	locals, taken := make([][]local, len(ports)), map[target.Endpoint]bool{}
	for i, p := range ports {
		if locals[i], err = localsOf(addresses, p); err != nil {
			return nil, err
		}
		for _, at := range locals[i] {
			a := target.Endpoint{Network: p.LocalNetwork(), AddrPort: netip.AddrPortFrom(at.addr, p.Local), Path: p.LocalPath}
			if taken[a] {
				return nil, fmt.Errorf("listen on %s: %w", a, ErrTwice)
			}
			taken[a] = p.Local != 0 || p.LocalPath != "" // for 0 the system chooses a different one each time
		}
	}
	for i, p := range ports {
		bound, err := listen(ctx, locals[i], p)
		for range tries {
			if p.Local != 0 || p.LocalPath != "" || !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
			CloseAll(bound)
			bound, err = listen(ctx, locals[i], p)
		}
		ls = append(ls, bound...)
		if err != nil {
			return ls, err
		}
	}
	return ls, nil
}

// CloseAll closes listeners, for a caller that does not pass them to Run.
func CloseAll(listeners []*Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// local is an address to listen on.
type local struct {
	addr     netip.Addr
	optional bool // the machine may lack the family
}

// localsOf returns the addresses to listen on for a port, without duplicates, and without
// those that the unspecified address of their family covers. An address is optional only
// where localhost alone asks for it.
func localsOf(addresses []string, p target.Port) (distinct []local, err error) {
	if p.LocalPath != "" {
		return []local{{}}, nil // a path, and no address
	}
	if p.Address != "" {
		addresses = []string{p.Address}
	}
	var all []local
	covered := map[bool]bool{} // by Is4
	for _, a := range addresses {
		if a == target.Localhost {
			all = append(all, local{netip.AddrFrom4([4]byte{127, 0, 0, 1}), true}, local{netip.IPv6Loopback(), true})
			continue
		}
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		all = append(all, local{addr: addr})
		covered[addr.Is4()] = covered[addr.Is4()] || addr.IsUnspecified()
	}
	if len(all) == 0 {
		return nil, errors.New("listen: no address is given")
	}
	for _, l := range all {
		same := slices.IndexFunc(distinct, func(other local) bool { return other.addr == l.addr })
		switch {
		case covered[l.addr.Is4()] && !l.addr.IsUnspecified():
		case same >= 0:
			distinct[same].optional = distinct[same].optional && l.optional
		default:
			distinct = append(distinct, l)
		}
	}
	return distinct, nil
}

// listen binds a port on all of its addresses. What it returns is bound, also together
// with an error.
func listen(ctx context.Context, locals []local, p target.Port) (ls []*Listener, err error) {
	number := p.Local
	var missing error
	for _, at := range locals {
		l := &Listener{Local: target.Endpoint{Network: p.LocalNetwork(), Path: p.LocalPath}, Remote: p.To()}
		switch err := l.bind(ctx, netip.AddrPortFrom(at.addr, number)); {
		case err == nil:
			ls = append(ls, l)
			number = l.Local.Port()
		case at.optional && familyMissing(err):
			missing = err
		default:
			return ls, err
		}
	}
	if len(ls) == 0 {
		return nil, missing
	}
	return ls, nil
}

// bind binds a listener at its path, or at an address.
func (l *Listener) bind(ctx context.Context, at netip.AddrPort) (err error) {
	family := "4"
	if at.Addr().Is6() {
		family = "6" // without IPv4, which has a listener of its own
	}
	switch l.Local.Network {
	case target.Unix:
		l.streams, err = listenUnix(l.Local.Path)
	case target.UDP:
		var c net.PacketConn
		if c, err = new(net.ListenConfig).ListenPacket(ctx, "udp"+family, at.String()); err == nil {
			l.packets = c.(*net.UDPConn)
			l.Local.AddrPort = c.LocalAddr().(*net.UDPAddr).AddrPort()
		}
	case target.TCP:
		if l.streams, err = new(net.ListenConfig).Listen(ctx, "tcp"+family, at.String()); err == nil {
			l.Local.AddrPort = l.streams.Addr().(*net.TCPAddr).AddrPort()
		}
	}
	return err
}

// familyMissing reports whether the machine has no such loopback address, as
// one booted with ipv6.disable=1 or with the address taken off.
func familyMissing(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
