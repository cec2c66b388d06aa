// Package tunnel is porthole.v1 over any byte stream, both ends: a Client opens connections
// to ports, and a Server at the far end connects them; docs/protocol.md specifies it. It must
// know neither Kubernetes nor HTTP: what carries the bytes, and how the far end was found and
// allowed, is decided by its callers.
package tunnel

import (
	"strconv"
	"strings"
)

// Protocol is the name by which two ends agree on what a tunnel speaks.
const Protocol = "porthole.v1"

// MaxText is how many bytes of a text that the other end chose are kept.
const MaxText = 4 << 10

// ClipText bounds a text that somebody else chose, and leaves no half of a character behind.
func ClipText(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), MaxText)], "")
}

// ParsePort reads a port as it is in headers: from 1 to 65535, in decimal.
func ParsePort(text string) (port uint16, ok bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}
