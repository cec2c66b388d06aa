package target

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The errors of ParsePort and ParseAddress.
var (
	ErrPort    = errors.New("not a port")
	ErrAddress = errors.New("neither an IP address nor localhost")
)

// Localhost is the one name that can be listened on: the loopback addresses of both families.
const Localhost = "localhost"

// Port is one parsed [[ADDRESS:]LOCAL:]REMOTE.
type Port struct {
	Address string // to listen on: an IP address or localhost; "" when none was given
	Local   uint16 // to listen on; 0 for any free one
	Remote  uint16 // to connect to at the target; 0 only where Name is set
	// Name is the remote port's, as a pod or service of Kubernetes has them.
	// Whoever knows its number sets Remote, and Local too where Same is set.
	Name string
	Same bool // the local port has the number that Name stands for
}

// ParsePort reads the forms that kubectl has, and an address before them:
//
//	8080               the same port on both ends
//	8080:80            local port 8080, remote port 80
//	:80 or 0:80        any free local port
//	127.0.0.2:8080:80  on one address only
//	[::1]:8080:80      the same with IPv6, in brackets
func ParsePort(s string) (Port, error) {
	p, err := ParseNamedPort(s)
	if err == nil && p.Name != "" {
		return Port{}, fmt.Errorf("port %q: %q is not a number: %w", s, p.Name, ErrPort)
	}
	return p, err
}

// ParseNamedPort reads what ParsePort does, and a name for the remote port:
//
//	http       the port of that name, at a local port of the same number
//	8080:http  the port of that name
func ParseNamedPort(s string) (Port, error) {
	address, pair, err := splitAddress(s)
	if err != nil {
		return Port{}, err
	}
	local, remote, both := strings.Cut(pair, ":")
	if !both {
		remote = local
	}
	p := Port{Address: address}
	if isPortName(remote) {
		p.Name, p.Same = remote, local == remote
		if local != "" && !p.Same {
			p.Local, err = parseNumber(s, local)
		}
		return p, err
	}
	if remote == "" && both {
		return Port{}, fmt.Errorf("port %q: the remote port is missing: %w", s, ErrPort)
	}
	if p.Remote, err = parseNumber(s, remote); err != nil {
		return Port{}, err
	}
	if p.Remote == 0 {
		return Port{}, fmt.Errorf("port %q: the remote port is 0: %w", s, ErrPort)
	}
	if local != "" {
		p.Local, err = parseNumber(s, local)
	}
	return p, err
}

// isPortName reports whether s can name a port: a service's may be a label of
// RFC 1123. Digits alone are a number, although some servers take them for a name.
func isPortName(s string) bool {
	return len(s) <= 63 && isLabel(s) && strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' })
}

// splitAddress takes the address off [ADDRESS:]LOCAL:REMOTE.
func splitAddress(s string) (address, pair string, err error) {
	switch end := strings.Index(s, "]:"); {
	case strings.HasPrefix(s, "[") && end > 0:
		address, pair = s[1:end], s[end+2:]
	case strings.Count(s, ":") == 2:
		address, pair, _ = strings.Cut(s, ":")
	default:
		return "", s, nil
	}
	if address, err = ParseAddress(address); err != nil || !strings.Contains(pair, ":") {
		return "", "", fmt.Errorf("port %q: want [[ADDRESS:]LOCAL:]REMOTE: %w", s, ErrPort)
	}
	return address, pair, nil
}

// ParseAddress checks an address to listen on and returns its usual spelling:
// localhost, or an IP address, where IPv4 in IPv6 is taken for the IPv4 that it is.
func ParseAddress(s string) (string, error) {
	if s == Localhost {
		return s, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", fmt.Errorf("address %q: %w", s, ErrAddress)
	}
	return a.Unmap().String(), nil
}

func parseNumber(s, number string) (uint16, error) {
	n, err := strconv.ParseUint(number, 10, 16)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("port %q: %s is out of range, ports end at 65535: %w", s, number, ErrPort)
	}
	if err != nil {
		return 0, fmt.Errorf("port %q: %q is not a number: %w", s, number, ErrPort)
	}
	return uint16(n), nil
}

// String returns a form that ParseNamedPort reads back to the same Port, where
// a name's number has not been filled in yet.
func (p Port) String() string {
	pair := fmt.Sprintf("%d:%d", p.Local, p.Remote)
	switch {
	case p.Same:
		pair = p.Name + ":" + p.Name
	case p.Name != "":
		pair = fmt.Sprintf("%d:%s", p.Local, p.Name)
	}
	switch {
	case p.Address == "":
		return pair
	case strings.Contains(p.Address, ":"):
		return "[" + p.Address + "]:" + pair
	}
	return p.Address + ":" + pair
}
