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

// ErrTwice means that two ports ask for the same local address and port.
var ErrTwice = errors.New("local port given twice")

// Listener is one local address that leads to one port of the target.
type Listener struct {
	*net.TCPListener
	Local  netip.AddrPort
	Remote target.Address
}

// Listen binds all ports, or none. A port without an address of its own is
// bound on each of addresses, with the same number on all of them, also when
// that is chosen by the system. target.Localhost means 127.0.0.1 and ::1, both,
// save where the machine does not have one of the families at all. An address that
// others of the list cover already counts once.
// Errors: ErrTwice; *net.OpError as net.Listen returns it.
func Listen(ctx context.Context, addresses []string, ports []target.Port) (ls []*Listener, err error) {
	defer func() {
		if err != nil {
			CloseAll(ls)
		}
	}()
	groups := make([]group, len(ports))
	for i, p := range ports {
		if groups[i], err = groupOf(addresses, p); err != nil {
			return nil, err
		}
	}
	if err := checkTwice(groups); err != nil {
		return nil, err
	}
	for _, g := range groups {
		bound, err := g.listen(ctx)
		ls = append(ls, bound...)
		if err != nil {
			return ls, err
		}
	}
	return ls, nil
}

// CloseAll closes listeners, for a caller that bound them and does not come to Run.
func CloseAll(listeners []*Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// group is one port of the target and the addresses that lead to it.
type group struct {
	port  target.Port
	binds []bind
}

type bind struct {
	addr netip.Addr
	// optional: the machine may lack the family.
	optional bool
}

func groupOf(addresses []string, p target.Port) (group, error) {
	if p.Address != "" {
		addresses = []string{p.Address}
	}
	g := group{port: p}
	for _, a := range addresses {
		if a == target.Localhost {
			g.binds = append(g.binds, bind{netip.AddrFrom4([4]byte{127, 0, 0, 1}), true}, bind{netip.IPv6Loopback(), true})
			continue
		}
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return group{}, fmt.Errorf("listen: %w", err)
		}
		g.binds = append(g.binds, bind{addr: addr})
	}
	if len(g.binds) == 0 {
		return group{}, errors.New("listen: no address is given")
	}
	g.binds = distinct(g.binds)
	return g, nil
}

// distinct leaves out what is given twice, and what the unspecified address of its
// family covers. What one of two asks for is not optional.
func distinct(binds []bind) (all []bind) {
	unspecified := map[bool]bool{} // by Is4
	for _, b := range binds {
		unspecified[b.addr.Is4()] = unspecified[b.addr.Is4()] || b.addr.IsUnspecified()
	}
	for _, b := range binds {
		same := slices.IndexFunc(all, func(other bind) bool { return other.addr == b.addr })
		switch {
		case unspecified[b.addr.Is4()] && !b.addr.IsUnspecified():
		case same >= 0:
			all[same].optional = all[same].optional && b.optional
		default:
			all = append(all, b)
		}
	}
	return all
}

func checkTwice(groups []group) error {
	seen := map[netip.AddrPort]bool{}
	for _, g := range groups {
		if g.port.Local == 0 {
			continue // the system chooses another for each
		}
		for _, b := range g.binds {
			local := netip.AddrPortFrom(b.addr, g.port.Local)
			if seen[local] {
				return fmt.Errorf("listen on %s: %w", local, ErrTwice)
			}
			seen[local] = true
		}
	}
	return nil
}

// tries is how often a free port is drawn until it is free on every address.
const tries = 32

// listen binds the group. What it returns is bound, also beside an error.
func (g group) listen(ctx context.Context) (ls []*Listener, err error) {
	for range tries {
		ls, err = g.listenOnce(ctx)
		if g.port.Local != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		CloseAll(ls)
	}
	return ls, err
}

func (g group) listenOnce(ctx context.Context) (ls []*Listener, err error) {
	number := g.port.Local
	var missing error
	for _, b := range g.binds {
		l, err := listen(ctx, netip.AddrPortFrom(b.addr, number), g.port.To())
		switch {
		case err == nil:
			ls = append(ls, l)
			number = l.Local.Port()
		case b.optional && familyMissing(err):
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

func listen(ctx context.Context, local netip.AddrPort, remote target.Address) (*Listener, error) {
	network := "tcp4"
	if local.Addr().Is6() {
		network = "tcp6" // and not IPv4 as well, which has a listener of its own
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, local.String())
	if err != nil {
		return nil, err
	}
	tcp := l.(*net.TCPListener)
	return &Listener{TCPListener: tcp, Local: tcp.Addr().(*net.TCPAddr).AddrPort(), Remote: remote}, nil
}

// familyMissing reports whether the machine has no such loopback address, as
// one booted with ipv6.disable=1 or with the address taken off.
func familyMissing(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
