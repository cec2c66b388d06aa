package tunnel

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

const (
	maxHost = 255  // bytes of a host's name: RFC 1035
	maxPath = 4096 // bytes of the path of a Unix socket, of which the kernel takes much less
)

// addressHeader returns the headers that open a connection to an address.
func addressHeader(to target.Address) spdy.Header {
	h := spdy.Header{"network": {to.Network.String()}}
	if to.Network == target.Unix {
		h["path"] = []string{to.Path}
		return h
	}
	h["port"] = []string{strconv.Itoa(int(to.Port))}
	if to.Host != "" {
		h["host"] = []string{to.Host}
	}
	return h
}

// parseAddress reads the headers that open a connection. Whether the address may be connected
// to is the Dialer's to decide.
func parseAddress(h spdy.Header) (to target.Address, err error) {
	network := h.Get("network")
	var ok bool
	if to.Network, ok = target.ParseNetwork(network); !ok {
		return to, fmt.Errorf("network %s is not supported", strings.ToValidUTF8(network[:min(len(network), 64)], ""))
	}
	if to.Network == target.Unix {
		to.Path = h.Get("path")
		if to.Path == "" || len(to.Path) > maxPath || strings.ContainsRune(to.Path, 0) {
			return to, fmt.Errorf("path is not one of 1 to %d bytes", maxPath)
		}
		return to, nil
	}
	if to.Host = h.Get("host"); len(to.Host) > maxHost || strings.ContainsFunc(to.Host, notInHost) {
		return to, errors.New("host is neither a name nor an address")
	}
	if to.Port, ok = ParsePort(h.Get("port")); !ok {
		return to, errors.New("port is not a number from 1 to 65535")
	}
	return to, nil
}

func notInHost(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/@[]", r) }

// Addr is an address at the far end, as a net.Addr; the zero value is none.
type Addr struct{ target.Address }

// Network implements net.Addr.
func (Addr) Network() string { return "portforward" }

// String implements net.Addr.
func (a Addr) String() string {
	if a.Host == "" && a.Path == "" {
		return ":" + a.Address.String()
	}
	return a.Address.String()
}
