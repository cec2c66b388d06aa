package target

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrHost means that a host has another form than ssh://[USER@]HOST[:PORT].
var ErrHost = errors.New("want ssh://[USER@]HOST[:PORT]")

// Host is another host, which is reached through ssh. The zero value is this one.
type Host struct {
	User string // "" for ssh's own choice
	Name string // a name, also one of ssh's configuration, or an IP address
	Port uint16 // 0 for ssh's own choice
}

// ParseHost reads ssh://[USER@]HOST[:PORT]; IPv6 addresses are in brackets. Neither part may
// be taken for an option.
func ParseHost(s string) (h Host, err error) {
	rest, ok := strings.CutPrefix(s, "ssh://")
	rest = strings.TrimSuffix(rest, "/")
	if !ok || rest == "" {
		return Host{}, fmt.Errorf("host %q: %w", s, ErrHost)
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		h.User, rest = rest[:at], rest[at+1:]
		if user, _, password := strings.Cut(h.User, ":"); password {
			return Host{}, fmt.Errorf("host \"ssh://%s:...@%s\": ssh asks for the password itself: %w", user, rest, ErrHost)
		}
		if h.User == "" || h.User[0] == '-' || strings.ContainsFunc(h.User, unsafeInHost) {
			return Host{}, fmt.Errorf("host %q: %q is no name of a user: %w", s, h.User, ErrHost)
		}
	}
	h.Name = rest
	if colon := strings.LastIndexByte(rest, ':'); colon >= 0 && !strings.HasSuffix(rest, "]") {
		port, err := strconv.ParseUint(rest[colon+1:], 10, 16)
		if err != nil || port == 0 {
			return Host{}, fmt.Errorf("host %q: %q is not a port: %w", s, rest[colon+1:], ErrHost)
		}
		h.Name, h.Port = rest[:colon], uint16(port)
	}
	if strings.Contains(h.Name, ":") && h.Name == unbracket(h.Name) {
		return Host{}, fmt.Errorf("host %q: an IPv6 address stands in brackets: %w", s, ErrHost)
	}
	h.Name = unbracket(h.Name)
	if h.Name == "" || h.Name[0] == '-' || strings.ContainsFunc(h.Name, unsafeInHost) {
		return Host{}, fmt.Errorf("host %q: %q is no name of a host: %w", s, h.Name, ErrHost)
	}
	return h, nil
}

// unsafeInHost reports whether a character is no part of a user's or host's name, or means
// something to a shell, which ssh's configuration may start with the name in its command line.
func unsafeInHost(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("@/\\'\"`$;&|<>(){}[]*?!#~^=,", r)
}

// String returns the form that ParseHost reads, "" for this host.
func (h Host) String() string {
	if h.Name == "" {
		return ""
	}
	s := h.Name
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	if h.User != "" {
		s = h.User + "@" + s
	}
	if h.Port != 0 {
		s += ":" + strconv.Itoa(int(h.Port))
	}
	return "ssh://" + s
}
