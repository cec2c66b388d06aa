package portforward

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

// The errors of tunnels and connections, for errors.Is. Besides them there are
// *StatusError, *PortError, net.ErrClosed for what this side closed,
// os.ErrDeadlineExceeded, and syscall.EPIPE for bytes that the server no longer
// takes because it is through with the connection.
var (
	// ErrTunnel says that the tunnel under the connection is gone. It wraps
	// the reason, and is never io.EOF: what was in flight may be lost.
	ErrTunnel = spdy.ErrTunnel
	// ErrSilent says that a tunnel was given up because its server, which always
	// answers pings, has not given a sign of life for too long.
	ErrSilent = errors.New("no sign of life from the server")
	// ErrRefused says that the server did nothing for the connection, which can be
	// opened again. It is an ErrReset too.
	ErrRefused = spdy.ErrRefused
	// ErrReset says that the server reset the connection and gave no reason.
	ErrReset = spdy.ErrReset
	// ErrDenied says that the node's policy forbids the port.
	ErrDenied = errors.New("denied by the node's policy")
	// ErrNoSandbox says that there is no pod any more that the port could be of.
	ErrNoSandbox = errors.New("pod sandbox is gone")
	// ErrUnsupported says that the server does not know such ports.
	ErrUnsupported = errors.New("kind of port is not supported")
	// ErrTooManyTunnels says that a Server has no room for one more.
	ErrTooManyTunnels = errors.New("the node has too many port-forward connections")
	// ErrTooManyOffers says that too many upgrades are waited for.
	ErrTooManyOffers = errors.New("too many port-forward requests wait for their upgrade")

	// errUpgrade says that a server answered 101 and meant something else.
	errUpgrade = errors.New("server did not upgrade to the port-forward protocol")
)

// StatusError is the server's refusal to open a tunnel: its HTTP answer.
type StatusError struct {
	Code    int    // HTTP status, such as 403
	Status  string // as the server wrote it, such as "403 Forbidden"
	Message string // what the body said, at most 4 KiB; of a Kubernetes Status, its message
	// RetryAfter is how long the server wants to be left alone; 0 if it does not say.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	if e.Message == "" {
		return "server answered " + e.Status
	}
	return fmt.Sprintf("server answered %s: %s", e.Status, e.Message)
}

// PortError is what the server says of a connection's failure: it could not
// reach the port, or lost it. Whatever the connection has brought is incomplete.
type PortError struct {
	Port uint16
	Text string // at most 4 KiB, such as "error forwarding port 8080 to pod ..."
	// Reason is what went wrong, "" where the server is not ours and has only
	// words.
	Reason Reason
}

func (e *PortError) Error() string { return e.Text }

// Is reports a Reason as the error that stands for it, such as a refused connection
// as syscall.ECONNREFUSED. The stock protocol has no error codes, so that the
// runtimes' words are all there is.
func (e *PortError) Is(target error) bool {
	reason := e.Reason
	if reason == "" {
		reason = stockReason(e.Text)
	}
	return slices.Contains(reason.errors(), target)
}
