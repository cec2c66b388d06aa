package tunnel

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"porthole.dev/porthole/internal/target"
)

// Reason returns why a connection failed, as a server of porthole.v1 tells its client.
type Reason string

// The Reasons. One that is not known here counts as ReasonFailed. Each is followed by the errors
// that a PortError with this Reason is.
const (
	ReasonRefused     Reason = "refused"     // nobody listens on the port: syscall.ECONNREFUSED
	ReasonReset       Reason = "reset"       // the port reset the connection: syscall.ECONNRESET, ErrReset
	ReasonNoSandbox   Reason = "no-sandbox"  // what the port was in is gone: ErrNoSandbox
	ReasonDenied      Reason = "denied"      // the far end forbids it, or is itself not permitted: ErrDenied
	ReasonTimeout     Reason = "timeout"     // the port did not answer: os.ErrDeadlineExceeded
	ReasonUnsupported Reason = "unsupported" // the server knows no such ports: ErrUnsupported
	ReasonNoHost      Reason = "no-host"     // the far end knows no such host: target.ErrNoHost
	ReasonNoLookup    Reason = "no-lookup"   // the far end cannot look the host up: target.ErrLookup
	ReasonUnreachable Reason = "unreachable" // there is no way to it: syscall.EHOSTUNREACH, syscall.ENETUNREACH
	ReasonInUse       Reason = "in-use"      // another program listens there: syscall.EADDRINUSE
	ReasonNoAddress   Reason = "no-address"  // the far end has no such address to listen on: syscall.EADDRNOTAVAIL
	ReasonFailed      Reason = "failed"      // anything else
)

// ReasonOf returns the Reason for an error of a Dialer, or of a connection to a port.
func ReasonOf(err error) Reason {
	var slow net.Error
	switch {
	case errors.Is(err, ErrDenied), errors.Is(err, os.ErrPermission):
		return ReasonDenied
	case errors.Is(err, ErrNoSandbox):
		return ReasonNoSandbox
	case errors.Is(err, ErrUnsupported):
		return ReasonUnsupported
	case errors.Is(err, target.ErrNoHost):
		return ReasonNoHost
	case errors.Is(err, target.ErrLookup):
		return ReasonNoLookup
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return ReasonUnreachable
	case errors.Is(err, syscall.EADDRINUSE):
		return ReasonInUse
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return ReasonNoAddress
	case errors.Is(err, syscall.ECONNREFUSED):
		return ReasonRefused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
		// After a reset Linux returns EPIPE to a write that follows an end of file, and ENOTCONN to shutdown(2).
		return ReasonReset
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return ReasonTimeout
	}
	return ReasonFailed
}

// errors returns the errors that a PortError with this Reason is.
func (r Reason) errors() []error {
	switch r {
	case ReasonRefused:
		return []error{syscall.ECONNREFUSED}
	case ReasonReset:
		return []error{syscall.ECONNRESET, ErrReset}
	case ReasonNoSandbox:
		return []error{ErrNoSandbox}
	case ReasonDenied:
		return []error{ErrDenied}
	case ReasonTimeout:
		return []error{os.ErrDeadlineExceeded}
	case ReasonUnsupported:
		return []error{ErrUnsupported}
	case ReasonNoHost:
		return []error{target.ErrNoHost}
	case ReasonNoLookup:
		return []error{target.ErrLookup}
	case ReasonUnreachable:
		return []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH}
	case ReasonInUse:
		return []error{syscall.EADDRINUSE}
	case ReasonNoAddress:
		return []error{syscall.EADDRNOTAVAIL}
	}
	return nil
}

// knownReason returns the Reason of that name, ReasonFailed if there is none.
func knownReason(name string) Reason {
	if r := Reason(name); r.errors() != nil {
		return r
	}
	return ReasonFailed
}
