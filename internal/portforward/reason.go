package portforward

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// Reason is why a connection failed, as porthole.v1 has it.
type Reason string

// The Reasons. One that is not known here counts as ReasonFailed.
const (
	ReasonRefused     Reason = "refused"     // nobody listens on the port: syscall.ECONNREFUSED
	ReasonReset       Reason = "reset"       // the port reset the connection: syscall.ECONNRESET, ErrReset
	ReasonNoSandbox   Reason = "no-sandbox"  // the pod is gone: ErrNoSandbox
	ReasonDenied      Reason = "denied"      // the node's policy forbids the port: ErrDenied
	ReasonTimeout     Reason = "timeout"     // the port did not answer: os.ErrDeadlineExceeded
	ReasonUnsupported Reason = "unsupported" // the server knows no such ports: ErrUnsupported
	ReasonFailed      Reason = "failed"      // anything else
)

// reasonOf finds the Reason of a Dialer's error.
func reasonOf(err error) Reason {
	var slow net.Error
	switch {
	case errors.Is(err, ErrDenied):
		return ReasonDenied
	case errors.Is(err, ErrNoSandbox):
		return ReasonNoSandbox
	case errors.Is(err, ErrUnsupported):
		return ReasonUnsupported
	case errors.Is(err, syscall.ECONNREFUSED):
		return ReasonRefused
	case errors.Is(err, syscall.ECONNRESET):
		return ReasonReset
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return ReasonTimeout
	}
	return ReasonFailed
}

// is says whether target stands for the Reason.
func (r Reason) is(target error) bool {
	switch r {
	case ReasonRefused:
		return target == syscall.ECONNREFUSED
	case ReasonReset:
		return target == syscall.ECONNRESET || target == ErrReset
	case ReasonNoSandbox:
		return target == ErrNoSandbox
	case ReasonDenied:
		return target == ErrDenied
	case ReasonTimeout:
		return target == os.ErrDeadlineExceeded
	case ReasonUnsupported:
		return target == ErrUnsupported
	}
	return false
}
