package target

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// The errors of ParsePort and ParseAddress.
var (
	ErrPort    = errors.New("not a port")
	ErrAddress = errors.New("neither an IP address nor localhost")
	// ErrUnsupported: the port is well formed, and of a network that cannot be forwarded.
	ErrUnsupported = errors.New("not yet supported")
)

// Localhost is the one name that can be listened on: the loopback addresses of both families.
const Localhost = "localhost"

// Port is one parsed [[ADDRESS:]LOCAL:]REMOTE.
type Port struct {
	Network   Network // of the remote end
	Address   string  // to listen on: an IP address or localhost; "" when none was given
	Local     uint16  // to listen on; 0 for any free one
	LocalPath string  // of a Unix socket to listen on, in place of Address and Local; or ""
	Remote    uint16  // to connect to at the target; 0 only where Name or Path is set
	Path      string  // of the Unix socket to connect to at the target, where Network is Unix
	// Name is the remote port's, as a pod or service of Kubernetes has them.
	// Whoever knows its number sets Remote, and Local too where Same is set.
	Name string
	Same bool // the local port has the number that Name stands for
}

// To returns what connections are made to.
func (p Port) To() Address { return Address{Network: p.Network, Port: p.Remote, Path: p.Path} }

// ParsePort reads the forms that kubectl has, and an address before them:
//
//	8080               the same port on both ends
//	8080:80            local port 8080, remote port 80
//	:80 or 0:80        any free local port
//	127.0.0.2:8080:80  on one address only
//	[::1]:8080:80      the same with IPv6, in brackets
//
// UDP ports and Unix sockets are read too, and come with ErrUnsupported:
//
//	53:53/udp          a UDP port; /tcp may be written as well
//	5432:/run/x.sock   a Unix socket at the target
//	./x.sock:5432      a Unix socket to listen on
func ParsePort(s string) (Port, error) {
	p, err := ParseNamedPort(s)
	if p.Name != "" && (err == nil || errors.Is(err, ErrUnsupported)) {
		return Port{}, fmt.Errorf("port %q: %q is not a number: %w", s, p.Name, ErrPort)
	}
	return p, err
}

// ParseNamedPort reads what ParsePort does, and a name for the remote port:
//
//	http       the port of that name, at a local port of the same number
//	8080:http  the port of that name
func ParseNamedPort(s string) (Port, error) {
	p, pair, err := splitLocal(s)
	if err != nil {
		return Port{}, err
	}
	local, remote, both := strings.Cut(pair, ":")
	if !both {
		remote = local
	}
	if err := p.setRemote(s, remote, both); err != nil {
		return Port{}, err
	}
	switch {
	case p.Name != "" && (!both || p.Name == local):
		p.Same = true
	case !both:
		p.Local = p.Remote
	case local != "":
		if p.Local, err = parseNumber(s, local); err != nil {
			return Port{}, err
		}
	}
	switch {
	case p.LocalPath != "":
		err = fmt.Errorf("port %q: %v: %w", s, Unix, ErrUnsupported)
	case p.Network != TCP:
		err = fmt.Errorf("port %q: %v: %w", s, p.Network, ErrUnsupported)
	}
	return p, err
}

// setRemote reads REMOTE: a path, or a number or name and its network.
func (p *Port) setRemote(s, remote string, both bool) (err error) {
	if both && isPath(remote) {
		p.Network, p.Path = Unix, remote
		return nil
	}
	for _, n := range []Network{TCP, UDP} {
		if number, ok := strings.CutSuffix(remote, "/"+n.String()); ok {
			p.Network, remote = n, number
			break
		}
	}
	switch {
	case isPortName(remote):
		p.Name = remote
		return nil
	case remote == "" && both:
		return fmt.Errorf("port %q: the remote port is missing: %w", s, ErrPort)
	}
	if p.Remote, err = parseNumber(s, remote); err == nil && p.Remote == 0 {
		err = fmt.Errorf("port %q: the remote port is 0: %w", s, ErrPort)
	}
	return err
}

// isPath reports whether s is the path of a Unix socket: it begins with a folder.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../")
}

// isPortName reports whether s can name a port: a service's may be a label of
// RFC 1123. Digits alone are a number, although some servers take them for a name.
func isPortName(s string) bool {
	return len(s) <= 63 && isLabel(s) && strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' })
}

// remotePath finds the colon before the path of a Unix socket.
var remotePath = regexp.MustCompile(`:\.{0,2}/`)

// splitLocal cuts off what is before LOCAL:REMOTE: an address, or the path to listen on,
// which leaves :REMOTE.
func splitLocal(s string) (p Port, pair string, err error) {
	near, _, _ := strings.Cut(s, "/") // colons in a path do not separate anything
	switch end := strings.Index(s, "]:"); {
	case isPath(s) && strings.Contains(s, ":"):
		colon := strings.LastIndex(s, ":")
		if at := remotePath.FindStringIndex(s); at != nil {
			colon = at[0]
		}
		return Port{LocalPath: s[:colon]}, s[colon:], nil
	case strings.HasPrefix(s, "[") && end > 0:
		p.Address, pair = s[1:end], s[end+2:]
	case strings.Count(near, ":") == 2:
		p.Address, pair, _ = strings.Cut(s, ":")
	default:
		return Port{}, s, nil
	}
	if p.Address, err = ParseAddress(p.Address); err != nil || !strings.Contains(pair, ":") {
		return Port{}, "", fmt.Errorf("port %q: want [[ADDRESS:]LOCAL:]REMOTE: %w", s, ErrPort)
	}
	return p, pair, nil
}

// ParseAddress checks an address to listen on and returns its usual spelling:
// localhost, or an IP address. An IPv4 address inside IPv6 becomes that IPv4 address.
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

// String returns a form that ParseNamedPort reads back to the same Port, unless the
// number of a name has been filled in.
func (p Port) String() string {
	local, remote := strconv.Itoa(int(p.Local)), p.To().String()
	if p.Name != "" {
		remote = p.Name + strings.TrimPrefix(remote, "0")
	}
	if p.Same {
		local = p.Name
	}
	switch {
	case p.LocalPath != "":
		return p.LocalPath + ":" + remote
	case p.Address == "":
		return local + ":" + remote
	case strings.Contains(p.Address, ":"):
		return "[" + p.Address + "]:" + local + ":" + remote
	}
	return p.Address + ":" + local + ":" + remote
}
