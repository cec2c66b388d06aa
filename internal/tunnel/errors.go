package tunnel

import (
	"errors"
	"slices"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// The errors of connections, for errors.Is. Besides them there are *PortError, net.ErrClosed
// for what this side closed, and os.ErrDeadlineExceeded.
var (
	// ErrTunnel means that the tunnel under the connection is gone. It wraps the reason
	// and is never io.EOF: bytes in flight may be lost.
	ErrTunnel = spdy.ErrTunnel
	// ErrRefused means that the server did nothing for the connection, which can be
	// opened again. It is an ErrReset too.
	ErrRefused = spdy.ErrRefused
	// ErrReset means that the other end reset the connection and gave no reason.
	ErrReset = spdy.ErrReset
	// ErrDenied means that the policy of the far end forbids the port, or that the far end
	// is itself not permitted to reach it.
	ErrDenied = errors.New("denied by the node's policy")
	// ErrNoSandbox means that the pod, or whatever the port was in, no longer exists.
	ErrNoSandbox = errors.New("pod sandbox is gone")
	// ErrUnsupported means that the server does not support this kind of port.
	ErrUnsupported = target.ErrUnsupported
)

// PortError is a connection's failure as the server reports it: it could not reach the
// port, or lost it. What the connection has delivered so far is incomplete.
type PortError struct {
	To   target.Address
	Text string // at most 4 KiB, such as "error forwarding port 8080 to pod ..."
	// Reason is what went wrong, "" where the server does not speak porthole.v1 and has
	// only the text.
	Reason Reason
	// Err is what the text of a server without Reasons is known to mean, or nil.
	Err error
}

func (e *PortError) Error() string { return e.Text }

// Unwrap returns Err.
func (e *PortError) Unwrap() error { return e.Err }

// Is reports a Reason as the errors it stands for, such as a refused connection as
// syscall.ECONNREFUSED.
func (e *PortError) Is(target error) bool { return slices.Contains(e.Reason.errors(), target) }
