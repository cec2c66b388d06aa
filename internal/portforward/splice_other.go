//go:build !linux

package portforward

import (
	"net"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
)

// newSplicer returns nil: splice(2) is Linux' own.
func newSplicer(*pipe.Copier, net.Conn) spdy.Splicer { return nil }
