package portforward

import (
	"net"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
)

// newSplicer returns what moves bytes of ports into a tunnel over conn inside the
// kernel; nil if conn is no socket.
func newSplicer(copier *pipe.Copier, conn net.Conn) spdy.Splicer {
	if splicer := copier.FrameSplicer(conn); splicer != nil {
		return splicer
	}
	return nil
}
