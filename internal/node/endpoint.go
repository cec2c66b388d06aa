package node

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// maxPath is what fits into a sockaddr_un, with its NUL (unix(7)).
const maxPath = 107

// socketPath is the path in an address unix:///PATH; the path alone will do, as
// for the kubelet. The error wraps ErrEndpoint.
func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	switch {
	case !strings.HasPrefix(path, "/"):
		return "", fmt.Errorf("endpoint %q: %w", endpoint, ErrEndpoint)
	case len(path) > maxPath:
		return "", fmt.Errorf("endpoint %q: %w of at most %d octets", endpoint, ErrEndpoint, maxPath)
	}
	return path, nil
}

// checkLoopback refuses an address that others than this node could connect to.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return fmt.Errorf("streaming address %s: %w", address, ErrLoopback)
	}
	return nil
}
