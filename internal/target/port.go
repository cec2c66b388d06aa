package target

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// The errors of ports and addresses.
var (
	ErrPort    = errors.New("not a port")
	ErrAddress = errors.New("neither an IP address nor localhost")
	// ErrUnsupported: the port is well formed, and nothing on the way to the target can
	// forward such a one.
	ErrUnsupported = errors.New("not supported here")
	// ErrNoHost: the target knows no host of that name, or no address of it.
	ErrNoHost = errors.New("no such host")
	// ErrLookup: the target could not look the host up, as its name servers do not answer.
	ErrLookup = errors.New("the host cannot be looked up")
)

var errForm = fmt.Errorf("want [[ADDRESS:]LOCAL:]REMOTE: %w", ErrPort)

// Localhost is the one name that can be listened on: the loopback addresses of both families.
const Localhost = "localhost"

// MaxRange is how many ports a range has at most: each is a listener.
const MaxRange = 1024

// Port is something to listen on, and what that leads to.
type Port struct {
	Network   Network // of the remote end
	Address   string  // to listen on: an IP address or localhost; "" when none was given
	Local     uint16  // to listen on; 0 for any free one
	LocalPath string  // of a Unix socket to listen on, in place of Address and Local; or ""
	Host      string  // to connect to, as the target sees it; "" is the target itself
	Remote    uint16  // to connect to at Host; 0 only where Name or Path is set
	Path      string  // of the Unix socket to connect to at the target, where Network is Unix
	// Name is the remote port's, as a pod or service of Kubernetes has them.
	// Whoever knows its number sets Remote, and Local too where Same is set.
	Name string
	Same bool // the local port has the number that Name stands for
}

// To returns what connections are made to.
func (p Port) To() Address {
	return Address{Network: p.Network, Host: p.Host, Port: p.Remote, Path: p.Path}
}

// LocalNetwork returns the network to listen on: that of the remote end, with TCP in the place
// of a Unix socket that is reached by a local port, and the reverse.
func (p Port) LocalNetwork() Network {
	switch {
	case p.LocalPath != "":
		return Unix
	case p.Network == UDP:
		return UDP
	}
	return TCP
}

// ParsePorts reads LOCAL:REMOTE in all its forms, which are one port each, or a range of them:
//
//	8080               the same port on both ends
//	8080:80            local port 8080, remote port 80
//	:80 or 0:80        any free local port
//	127.0.0.2:8080:80  on one address only; IPv6 is in brackets, as in [::1]:8080:80
//	53:53/udp, 53/udp  UDP ports; /tcp may be written as well
//	8000-8010, 9000-9010:8000-8010
//	                   as many ports as there are in the range
//	5432:/run/x.sock   a Unix socket at the target
//	./x.sock:5432      a Unix socket to listen on, at any path with a slash
//	5432:db:5432       a port of a host, as the target sees it
func ParsePorts(s string) ([]Port, error) {
	ports, err := ParseNamedPorts(s)
	if err == nil && ports[0].Name != "" {
		return nil, fmt.Errorf("port %q: %q is not a number: %w", s, ports[0].Name, ErrPort)
	}
	return ports, err
}

// ParseNamedPorts reads what ParsePorts does, and a name for the remote port:
//
//	http       the port of that name, at a local port of the same number
//	8080:http  the port of that name
//	dns/udp    the same for UDP
func ParseNamedPorts(s string) ([]Port, error) {
	ports, err := parsePorts(s)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", s, err)
	}
	return ports, nil
}

func parsePorts(s string) ([]Port, error) {
	p, local, remote, err := splitPort(s)
	if err != nil {
		return nil, err
	}
	if remote, err = p.setRemote(remote, local != nil || p.LocalPath != ""); err != nil {
		return nil, err
	}
	switch {
	case p.LocalPath != "" && p.Network == UDP:
		return nil, fmt.Errorf("a Unix socket cannot stand for a UDP port: %w", ErrPort)
	case p.Name != "" && (local == nil && p.LocalPath == "" || local != nil && *local == p.Name):
		p.Same = true
		return []Port{p}, nil
	}
	return p.expand(local, remote)
}

// expand returns the port for each number of the ranges in LOCAL, nil for none, and REMOTE,
// which is not looked at for a name or a path.
func (p Port) expand(local *string, remote string) ([]Port, error) {
	first, count := 0, 1
	var err error
	if p.Name == "" && p.Path == "" {
		if first, count, err = parseRange(remote); err == nil && first == 0 {
			err = fmt.Errorf("the remote port is 0: %w", ErrPort)
		}
		if err != nil {
			return nil, err
		}
	}
	from, step := first, 1
	switch {
	case p.LocalPath != "" && count > 1:
		return nil, fmt.Errorf("one Unix socket cannot stand for %d ports: %w", count, ErrPort)
	case p.LocalPath != "" || local != nil && (*local == "" || *local == "0"):
		from, step = 0, 0 // none, or any free one
	case local != nil:
		var here int
		if from, here, err = parseRange(*local); err == nil && here != count {
			err = fmt.Errorf("%d to listen on and %d to connect to, want as many of each: %w", here, count, ErrPort)
		}
		if err != nil {
			return nil, err
		}
	}
	ports := make([]Port, count)
	for i := range ports {
		ports[i] = p
		ports[i].Local = uint16(from + i*step)
		if first > 0 {
			ports[i].Remote = uint16(first + i)
		}
	}
	return ports, nil
}

// splitPort takes a port apart: the address or path to listen on and the remote host, which it
// enters into p, LOCAL, nil if there is none, and REMOTE.
func splitPort(s string) (p Port, local *string, remote string, err error) {
	parts := splitColons(s)
	if isPath(s) && len(parts) > 1 {
		p.LocalPath, parts = parts[0], parts[1:]
	} else if len(parts) > 1 {
		// ADDRESS:LOCAL:REMOTE has as many colons as LOCAL:HOST:PORT.
		if n := len(parts); n == 4 || n == 3 && !isRange(parts[0]) {
			if p.Address, err = ParseAddress(unbracket(parts[0])); err != nil {
				return Port{}, nil, "", err
			}
			parts = parts[1:]
		}
		if _, err := ParseAddress(unbracket(parts[0])); err == nil { // LOCAL is missing
			return Port{}, nil, "", errForm
		}
		local, parts = &parts[0], parts[1:]
	}
	switch len(parts) {
	case 1:
		return p, local, parts[0], nil
	case 2:
		p.Host = unbracket(parts[0])
		return p, local, parts[1], checkHost(p.Host)
	}
	return Port{}, nil, "", errForm
}

// splitColons splits at colons, but not in brackets nor in a path at the end.
func splitColons(s string) (parts []string) {
	for {
		end := strings.IndexByte(s, ':')
		if strings.HasPrefix(s, "[") {
			if closed := strings.Index(s, "]:"); closed > 0 {
				end = closed + 1
			}
		}
		if end < 0 || isPath(s) && len(parts) > 0 {
			return append(parts, s)
		}
		parts, s = append(parts, s[:end]), s[end+1:]
	}
}

// setRemote reads REMOTE into p, or returns the number or range that it is. local says
// whether something stands before it.
func (p *Port) setRemote(s string, local bool) (numbers string, err error) {
	if isPath(s) && local && p.Host == "" {
		p.Network, p.Path = Unix, s
		return "", nil
	}
	for _, n := range []Network{TCP, UDP} {
		if number, ok := strings.CutSuffix(s, "/"+n.String()); ok {
			p.Network, s = n, number
			break
		}
	}
	switch {
	case isPath(s) && p.Host == "":
		return "", fmt.Errorf("a Unix socket of the target takes something here that leads to it, such as :%s for any free port: %w", s, ErrPort)
	case s == "" && local:
		return "", fmt.Errorf("the remote port is missing: %w", ErrPort)
	case isPortName(s) && p.Host == "":
		p.Name = s
		return "", nil
	}
	return s, nil
}

// isPath reports whether s is the path of a Unix socket and not a number or a name.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../")
}

// isPortName reports whether s can be the name of a port: labels of RFC 1123 with a letter.
func isPortName(s string) bool {
	return len(s) <= 63 && isLabel(s) && strings.ContainsFunc(s, func(r rune) bool { return r >= 'a' })
}

// hostName is a name that may be in a hosts file or in the DNS, also with underscores.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?$`)

// checkHost reports whether s is an IP address, or a name that cannot be taken for one.
func checkHost(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	if !hostName.MatchString(s) || strings.Trim(s, "0123456789.") == "" {
		return fmt.Errorf("%q is not a host: %w", s, ErrPort)
	}
	return nil
}

// unbracket takes an IPv6 address out of its brackets.
func unbracket(s string) string {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return s[1 : len(s)-1]
	}
	return s
}

// isRange reports whether s is where LOCAL can be: empty, a number or a range of them.
func isRange(s string) bool { return strings.Trim(s, "0123456789-") == "" }

// ParseAddress reads an address to listen on and returns it in its usual form.
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

// parseRange reads a number, or FIRST-LAST.
func parseRange(s string) (first, count int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		first, err = parseNumber(s)
		return first, 1, err
	}
	if first, err = parseNumber(from); err != nil {
		return 0, 0, err
	}
	last, err := parseNumber(to)
	switch {
	case err != nil:
		return 0, 0, err
	case first == 0:
		return 0, 0, fmt.Errorf("the range %s begins with 0: %w", s, ErrPort)
	case last < first:
		return 0, 0, fmt.Errorf("the range %s goes backwards: %w", s, ErrPort)
	case last-first >= MaxRange:
		return 0, 0, fmt.Errorf("the range %s has %d ports, of %d at most: %w", s, last-first+1, MaxRange, ErrPort)
	}
	return first, last - first + 1, nil
}

func parseNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%s is out of range, ports end at 65535: %w", s, ErrPort)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a number: %w", s, ErrPort)
	}
	return int(n), nil
}

// String returns a form that ParseNamedPorts reads back to the same Port, unless the
// number of a name has become known.
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
