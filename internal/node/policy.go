package node

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Policy is what the node's operator allows to be forwarded. The zero value allows everything.
type Policy struct {
	// DenyHostNetwork refuses pods that use the node's own network, where a
	// forward reaches whatever listens on the node's loopback.
	DenyHostNetwork bool
	// Allow are the only ports that can be reached; empty means all.
	Allow target.PortSet
	// Deny are ports that are not, even if Allow has them.
	Deny target.PortSet
	// AllowReverse says where may be listened in pods, for the way back. Allow and Deny hold there too.
	AllowReverse Reverse
	// AllowUnix are the only Unix sockets that can be reached; empty means none.
	AllowUnix Paths
}

// Reverse says on which addresses of pods may be listened.
type Reverse string

// The values of Reverse.
const (
	ReverseNone     Reverse = "" // on none
	ReverseLoopback Reverse = "loopback"
	ReverseAny      Reverse = "any"
)

// ParseReverse reads a value of Reverse, where none stands for "". The error wraps ErrReverse.
func ParseReverse(s string) (Reverse, error) {
	switch r := Reverse(s); r {
	case "none":
		return ReverseNone, nil
	case ReverseLoopback, ReverseAny:
		return r, nil
	}
	return "", fmt.Errorf("allow-reverse %q: %w", s, ErrReverse)
}

// errHostNetwork refuses pods on the node's network.
const errHostNetwork = deniedError("the pod uses the node's network, which is denied by the node's policy (--deny-host-network)")

// check returns nil, or an error that wraps tunnel.ErrDenied.
func (p Policy) check(hostNetwork bool, port uint16) error {
	switch {
	case hostNetwork && p.DenyHostNetwork:
		return errHostNetwork
	case p.Deny.Contain(port):
		return deniedError(fmt.Sprintf("port %d is denied by the node's policy (--deny-ports)", port))
	case len(p.Allow) > 0 && !p.Allow.Contain(port):
		return deniedError(fmt.Sprintf("port %d is denied by the node's policy (--allow-ports)", port))
	}
	return nil
}

// checkUnix returns the path of a Unix socket without what is superfluous in it, or an error that
// wraps tunnel.ErrDenied.
func (p Policy) checkUnix(hostNetwork bool, asked string) (string, error) {
	clean := path.Clean(asked)
	switch {
	case hostNetwork && p.DenyHostNetwork:
		return "", errHostNetwork
	case len(p.AllowUnix) == 0:
		return "", deniedError("Unix sockets are denied by the node's policy, which allows none (--allow-unix)")
	case !p.AllowUnix.Match(clean):
		return "", deniedError(fmt.Sprintf("the Unix socket %s is denied by the node's policy (--allow-unix)", clean))
	}
	return clean, nil
}

// Paths are patterns of absolute paths, as those of path.Match: * stands for anything within
// one element.
type Paths []string

// ParsePaths reads patterns with commas between them, or "" for none. The error wraps ErrPaths.
func ParsePaths(list string) (Paths, error) {
	if list == "" {
		return nil, nil
	}
	paths := Paths(strings.Split(list, ","))
	for _, p := range paths {
		if _, err := path.Match(p, ""); err != nil || !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return nil, fmt.Errorf("paths %q: %q: %w", list, p, ErrPaths)
		}
	}
	return paths, nil
}

// Match says whether a path, which is absolute and clean, is among them.
func (p Paths) Match(name string) bool {
	return slices.ContainsFunc(p, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}

// deniedError is a refusal by policy, with a message for the user.
type deniedError string

func (e deniedError) Error() string { return string(e) }

func (deniedError) Unwrap() error { return tunnel.ErrDenied }
