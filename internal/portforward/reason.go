package portforward

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
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
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
		return ReasonReset // which Linux calls by the second name after an end of file, by the third to shutdown(2)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return ReasonTimeout
	}
	return ReasonFailed
}

// stockReason finds the Reason in the words of a stock server, "" if there is none that
// is known. Go's and socat's words for a refused connection are strerror(3)'s, in their
// own case; those for a sandbox that is gone are the runtimes'.
func stockReason(text string) Reason {
	text = strings.ToLower(text)
	if strings.Contains(text, "connection refused") {
		return ReasonRefused
	}
	for _, signs := range [][2]string{
		{"network namespace for sandbox", "is closed"},    // containerd
		{"failed to find sandbox", "in store"},            // containerd
		{"podsandbox with id starting with", "not found"}, // CRI-O
		{"could not find sandbox", ""},                    // CRI-O
		{"sandbox", "is not running"},                     // CRI-O
		{"network namespace path of sandbox", "is empty"}, // CRI-O
		{"container not running (", ")"},                  // cri-dockerd
		{"the pod's network namespace is gone", ""},       // porthole node
	} {
		if _, rest, found := strings.Cut(text, signs[0]); found && strings.Contains(rest, signs[1]) {
			return ReasonNoSandbox
		}
	}
	return ""
}

// errors are those that stand for the Reason.
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
	}
	return nil
}

// knownReason is the Reason of that name.
func knownReason(name string) Reason {
	if r := Reason(name); r.errors() != nil {
		return r
	}
	return ReasonFailed
}
