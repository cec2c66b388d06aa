package target

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Each says what each member of a target, such as each pod of a StatefulSet, has of its own on
// this machine. "" forwards to the target as a whole.
type Each string

// The values of Each.
const (
	EachPorts     Each = "ports"     // consecutive ports, at the same addresses
	EachAddresses Each = "addresses" // consecutive addresses, with the same ports
)

// The errors of Each.
var (
	ErrEach = errors.New("cannot forward to each pod")
	// ErrNoPlace: so many members come before one that nothing is left for it on this machine.
	ErrNoPlace = errors.New("no place is left")
)

// ParseEach reads a value of Each other than "".
func ParseEach(s string) (Each, error) {
	if e := Each(s); e == EachPorts || e == EachAddresses {
		return e, nil
	}
	return "", fmt.Errorf("%q: want ports or addresses", s)
}

// For returns the forward to one member of the target, at a place from 0 on.
func (f Forward) For(member string, place int) Forward {
	f.Member, f.Place = member, place
	return f
}

// CheckEach reports what keeps members from having something of their own. Errors: ErrEach.
func (f Forward) CheckEach() error {
	switch {
	case f.Each == "":
		return nil
	case f.Target.Scheme != Kubernetes:
		return fmt.Errorf("%w: %s has none", ErrEach, f.Target)
	case f.Via == ViaRelay:
		return fmt.Errorf("%w: a relay leads to the target as a whole", ErrEach)
	case f.Pin:
		return fmt.Errorf("%w: pin stays with one", ErrEach)
	}
	for _, p := range f.Ports {
		if p.LocalPath != "" {
			return fmt.Errorf("%w: %s is one socket for all", ErrEach, p.LocalPath)
		}
		if f.Each == EachAddresses {
			if _, err := f.addressOf(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// Locals returns ports, all of them numbered, as the member listens on them: at its ports, or
// at its address. A forward without a member has them as they are. Errors: ErrNoPlace.
func (f Forward) Locals(ports []Port) ([]Port, error) {
	if f.Member == "" {
		return ports, nil
	}
	own := slices.Clone(ports)
	for i, p := range ports {
		var err error
		if f.Each == EachAddresses {
			own[i].Address, err = f.addressOf(p)
		} else {
			own[i].Local, err = f.portOf(p, ports)
		}
		if err != nil {
			return nil, err
		}
	}
	return own, nil
}

// portOf returns the local port of the member for one of ports. Ports without a gap between
// them, such as a range, are one block: it is as large as the step from member to member.
func (f Forward) portOf(p Port, ports []Port) (uint16, error) {
	if p.Local == 0 {
		return 0, nil // any free one
	}
	taken := map[int]bool{}
	for _, other := range ports {
		if other.LocalNetwork() == p.LocalNetwork() && other.Address == p.Address {
			taken[int(other.Local)] = true
		}
	}
	first, end := int(p.Local), int(p.Local)+1
	for first > 1 && taken[first-1] {
		first--
	}
	for taken[end] {
		end++
	}
	size := end - first
	number := int(p.Local) + f.Place*size
	if number > 65535 {
		return 0, fmt.Errorf("local port %d and %d for each pod: ports end at 65535: %w", p.Local, size, ErrNoPlace)
	}
	for n := end; n < end+f.Place*size; n++ {
		if taken[n] {
			return 0, fmt.Errorf("local port %d is another port's of the first pod: %w", n, ErrNoPlace)
		}
	}
	return uint16(number), nil
}

// addressOf returns the member's address to listen on for a port. Without another one asked
// for, the first is 127.0.0.2: 127.0.0.1 is everybody's. Errors: ErrEach, ErrNoPlace.
func (f Forward) addressOf(p Port) (string, error) {
	from := f.Addresses
	if p.Address != "" {
		from = []string{p.Address}
	}
	if len(from) != 1 {
		return "", fmt.Errorf("%w: consecutive addresses begin with one, not with %d", ErrEach, len(from))
	}
	first := netip.AddrFrom4([4]byte{127, 0, 0, 2})
	if from[0] != Localhost {
		first = netip.MustParseAddr(from[0])
	}
	if first.IsUnspecified() {
		return "", fmt.Errorf("%w: %s is all addresses", ErrEach, first)
	}
	own := first
	for range f.Place {
		own = own.Next()
	}
	if !own.IsValid() || own.IsLoopback() != first.IsLoopback() {
		return "", fmt.Errorf("address %s and %d more: %w", first, f.Place, ErrNoPlace)
	}
	return own.String(), nil
}
