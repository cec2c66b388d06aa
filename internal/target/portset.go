package target

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrPortSet means that a text is not a list of ports.
var ErrPortSet = errors.New("not a list of ports")

// PortSet is a list of port ranges.
type PortSet []portSpan

type portSpan struct{ first, last uint16 }

// maxRanges limits the cost of checking a connection.
const maxRanges = 1000

// ParsePortSet reads a list such as "80,443,8000-9000", or "" for none. The error
// wraps ErrPortSet.
func ParsePortSet(list string) (PortSet, error) {
	if list == "" {
		return nil, nil
	}
	var ports PortSet
	for item := range strings.SplitSeq(list, ",") {
		r, ok := parseSpan(item)
		if !ok || len(ports) == maxRanges {
			return nil, fmt.Errorf("ports %q: %q: %w", list, item, ErrPortSet)
		}
		ports = append(ports, r)
	}
	return ports, nil
}

func parseSpan(item string) (r portSpan, ok bool) {
	first, last, isRange := strings.Cut(item, "-")
	if !isRange {
		last = first
	}
	if r.first, ok = parsePort(first); !ok {
		return r, false
	}
	r.last, ok = parsePort(last)
	return r, ok && r.first <= r.last
}

// parsePort reads a port in its canonical form: digits, without sign, space or leading zero.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && s[0] != '0'
}

// Contain says whether port is in the list.
func (p PortSet) Contain(port uint16) bool {
	for _, r := range p {
		if r.first <= port && port <= r.last {
			return true
		}
	}
	return false
}

// String is the list in ParsePortSet' form.
func (p PortSet) String() string {
	items := make([]string, len(p))
	for i, r := range p {
		items[i] = strconv.Itoa(int(r.first))
		if r.last != r.first {
			items[i] += "-" + strconv.Itoa(int(r.last))
		}
	}
	return strings.Join(items, ",")
}

// MarshalText implements encoding.TextMarshaler, in String's form.
func (p PortSet) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, by ParsePortSet.
func (p *PortSet) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePortSet(string(text))
	return err
}
