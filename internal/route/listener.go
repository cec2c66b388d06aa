package route

import (
	"context"
	"fmt"
	"net"

	"porthole.dev/porthole/internal/target"
)

// Listener is one address that is listened on, of this machine or of a target, where connections come from.
type Listener struct {
	Local  target.Endpoint // what is listened on
	Remote target.Address  // what its connections lead to, for whoever carries them

	// One of the two is set. Streams yields connections, of which each is a pipe.Conn too: those of TCP
	// and Unix sockets, and all that come through a tunnel. Packets is a socket of UDP with all its clients.
	Streams net.Listener
	Packets *net.UDPConn
	// Socket makes a socket in the network of Packets, as socket(2) does; nil where that is this process' own.
	Socket func(domain, kind, protocol int) (fd int, err error)
}

// Close ends listening, and connections through Packets with it.
func (l *Listener) Close() error {
	if l.Packets != nil {
		return l.Packets.Close()
	}
	return l.Streams.Close()
}

// Binder listens on one address, of TCP or UDP; port 0 is any free one. The caller owns the Listener,
// whose Remote is not set.
type Binder func(ctx context.Context, at target.Endpoint) (*Listener, error)

// BindError is why a target could not be listened at.
type BindError struct {
	At  target.Endpoint
	Err error
}

func (e *BindError) Error() string { return fmt.Sprintf("listen on %s there: %v", e.At, e.Err) }

// Unwrap returns Err.
func (e *BindError) Unwrap() error { return e.Err }
