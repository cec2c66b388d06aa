package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// Here is a route.Dialer to this machine, for the way back: to ports of 127.0.0.1 and then ::1 (of UDP, where a
// refusal shows only later, of 127.0.0.1 alone), to ports of hosts as this machine sees them, and to Unix
// sockets. Its errors are *HereError.
type Here struct{}

// HereError is why something on this machine, or a host that it sees, could not be reached.
type HereError struct {
	To  target.Address
	Err error
}

func (e *HereError) Error() string { return fmt.Sprintf("%s here: %v", e.To.Named(), e.Err) }

// Unwrap returns Err.
func (e *HereError) Unwrap() error { return e.Err }

// Dial implements route.Dialer.
func (Here) Dial(ctx context.Context, to target.Address) (conn pipe.Conn, err error) {
	hosts := []string{to.Host}
	if to.Host == "" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	var first error
	for _, host := range hosts {
		if conn, err = dialHere(ctx, host, to); err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return nil, &HereError{To: to, Err: Cause(first)}
}

// dialHere connects to a port of a host, or to a Unix socket.
func dialHere(ctx context.Context, host string, to target.Address) (pipe.Conn, error) {
	address := to.Path
	if to.Network != target.Unix {
		address = net.JoinHostPort(host, strconv.Itoa(int(to.Port)))
	}
	conn, err := new(net.Dialer).DialContext(ctx, to.Network.String(), address)
	if err != nil {
		return nil, err
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		return udpHere{udp}, nil
	}
	return conn.(pipe.Conn), nil // of TCP or a Unix socket
}

// udpHere is a connection of datagrams.
type udpHere struct{ *net.UDPConn }

// CloseWrite does nothing: datagrams have no end.
func (udpHere) CloseWrite() error { return nil }
