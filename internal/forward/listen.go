package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// ErrTwice means that two ports ask for the same local address and port, or Unix socket.
var ErrTwice = errors.New("port given twice")

// tries is how often the system is asked for another free port, until one is free on
// every address.
const tries = 32

// Listen binds all ports, or none. A port without an address of its own is bound on
// each of addresses, with the same number on all of them, even if the system chooses
// it. target.Localhost means both 127.0.0.1 and ::1, unless the machine lacks one of
// the families. Addresses that others of the list cover are left out.
// Errors: ErrTwice; *net.OpError as net.Listen returns it.
func Listen(ctx context.Context, addresses []string, ports []target.Port) ([]*route.Listener, error) {
	return listenAll(ctx, Bind, addresses, ports)
}

// ListenBy is Listen at a target, by bind, for the way back. Errors: ErrTwice, *route.BindError.
func ListenBy(ctx context.Context, bind route.Binder, addresses []string, ports []target.Port) ([]*route.Listener, error) {
	return listenAll(ctx, func(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
		l, err := bind(ctx, at)
		if err != nil {
			return nil, &route.BindError{At: at, Err: Cause(err)}
		}
		return l, nil
	}, addresses, ports)
}

// Cause returns an error of a socket without what package net adds to it.
func Cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func listenAll(ctx context.Context, bind route.Binder, addresses []string, ports []target.Port) (ls []*route.Listener, err error) {
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
		bound, err := listen(ctx, bind, locals[i], p)
		for range tries {
			if p.Local != 0 || p.LocalPath != "" || !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
			CloseAll(bound)
			bound, err = listen(ctx, bind, locals[i], p)
		}
		ls = append(ls, bound...)
		if err != nil {
			return ls, err
		}
	}
	return ls, nil
}

// CloseAll closes listeners, for a caller that does not pass them to Run.
func CloseAll(listeners []*route.Listener) {
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
func listen(ctx context.Context, bind route.Binder, locals []local, p target.Port) (ls []*route.Listener, err error) {
	number := p.Local
	var missing error
	for _, at := range locals {
		l, err := bind(ctx, target.Endpoint{Network: p.LocalNetwork(), AddrPort: netip.AddrPortFrom(at.addr, number), Path: p.LocalPath})
		switch {
		case err == nil:
			l.Remote = p.To()
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

// Bind is a route.Binder to addresses and Unix sockets of this machine.
func Bind(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
	l := &route.Listener{Local: at}
	family := "4"
	if at.Addr().Is6() {
		family = "6" // without IPv4, which has a listener of its own
	}
	var err error
	switch at.Network {
	case target.Unix:
		l.Streams, err = listenUnix(at.Path)
	case target.UDP:
		var c net.PacketConn
		if c, err = new(net.ListenConfig).ListenPacket(ctx, "udp"+family, at.AddrPort.String()); err == nil {
			l.Packets = c.(*net.UDPConn)
			l.Local.AddrPort = c.LocalAddr().(*net.UDPAddr).AddrPort()
		}
	case target.TCP:
		if l.Streams, err = new(net.ListenConfig).Listen(ctx, "tcp"+family, at.AddrPort.String()); err == nil {
			l.Local.AddrPort = l.Streams.Addr().(*net.TCPAddr).AddrPort()
		}
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// familyMissing reports whether the machine has no such loopback address, as
// one booted with ipv6.disable=1 or with the address taken off.
func familyMissing(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
