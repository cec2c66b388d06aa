package portforward

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// The errors of tunnels, for errors.Is. Those of connections are tunnel's, and syscall.EPIPE
// for bytes that a stock server no longer takes because it is through with the connection.
var (
	// ErrSilent means that a tunnel was given up because its server, which always answers
	// pings, has not sent anything for too long.
	ErrSilent = errors.New("no sign of life from the server")
	// ErrTooManyTunnels means that a Server has no room for one more.
	ErrTooManyTunnels = errors.New("the node has too many port-forward connections")
	// ErrTooManyPending means that too many upgrades are waited for.
	ErrTooManyPending = errors.New("too many port-forward requests wait for their upgrade")

	// errUpgrade means that a server answered 101 for something else.
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

// StockError is the error that a stock server reports with a text. The protocol has no error
// codes, so that the texts that runtimes are known to use are all there is. Go's and socat's
// for a refused connection are strerror(3)'s, in their own case.
func StockError(port uint16, text string) *tunnel.PortError {
	e := &tunnel.PortError{To: target.TCPPort(port), Text: text}
	text = strings.ToLower(text)
	if strings.Contains(text, "connection refused") {
		e.Err = syscall.ECONNREFUSED
		return e
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
			e.Err = tunnel.ErrNoSandbox
		}
	}
	return e
}
