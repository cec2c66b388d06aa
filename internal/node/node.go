// Package node is a proxy between the kubelet and its container runtime that passes every call on, and answers port-forwarding itself.
// It must not know the API server, nor keep state that a restart would lose.
package node

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// The errors that callers tell apart with errors.Is.
var (
	// ErrEndpoint: not a Unix socket's address.
	ErrEndpoint = errors.New("want unix:///PATH")
	// ErrInUse: a running process listens on the socket.
	ErrInUse = errors.New("socket is in use")
	// ErrNotSocket: the file at a socket's path is something else, and is left alone.
	ErrNotSocket = errors.New("is there, and is no socket")
	// ErrFolder: a socket cannot be made in its folder.
	ErrFolder = errors.New("cannot make a socket there")
	// ErrListen: a TCP address cannot be listened on.
	ErrListen = errors.New("cannot listen")
	// ErrLoopback: others can reach the address, which is not allowed.
	ErrLoopback = errors.New("not a loopback address")
	// ErrPaths: not a list of absolute paths.
	ErrPaths = errors.New("not a list of absolute paths")
	// ErrReverse: no value of Reverse.
	ErrReverse = errors.New("want none, loopback or any")
	// ErrBackend: no such backend.
	ErrBackend = errors.New("unknown backend")
	// ErrNoNode: nobody serves events at the socket.
	ErrNoNode = errors.New("no porthole node runs here")
	// ErrNotRoot: events are for root.
	ErrNotRoot = errors.New("only root may read the node's events")
	// ErrUnsupported: this system has no network namespaces, hence no pods.
	ErrUnsupported = errors.New("porthole node needs Linux")
)

// Backend is a way into a pod.
type Backend string

// The backends.
const (
	// Native makes the socket inside the pod's network namespace.
	Native Backend = "native"
	// Socat runs nsenter and socat for each connection, as early kubelets did.
	Socat Backend = "socat"
)

// Node is one `porthole node`. Set the fields, of which Listen, Upstream and DataPath
// are needed, and call Run once.
type Node struct {
	// Listen is the address of the socket for the kubelet, unix:///PATH.
	Listen string
	// Upstream is the address of the runtime's socket.
	Upstream string
	// Docker is the address of the Docker engine's socket, which is asked when
	// the runtime does not report a sandbox's process, like cri-dockerd; "" means
	// no engine.
	Docker string
	// Backend is how pods are entered; "" means Native.
	Backend Backend
	// Policy is what may be forwarded.
	Policy Policy
	// PassThrough are runtime handlers whose pods' forwards are passed through to
	// the runtime, in addition to those that are recognized as not using Linux
	// namespaces of the node. Policy's ports do not apply to them.
	PassThrough []string
	// KeepURLs leaves URLs without a scheme, from cri-dockerd, as they are;
	// kubelets from 1.36 on refuse them.
	KeepURLs bool
	// Streaming is the host:port that the kubelet connects to for the
	// forwards themselves; "" means 127.0.0.1:0. It must be loopback, unless
	// StreamingAnywhere.
	Streaming         string
	StreamingAnywhere bool
	// Memory is how many bytes all forwards together may hold unread, MaxTunnels how
	// many tunnels there may be, and MaxPodTunnels how many to one pod; 0 means
	// what portforward.Server has.
	Memory                    int
	MaxTunnels, MaxPodTunnels int
	// Metrics is the host:port of the Prometheus page /metrics; "" means none.
	Metrics string
	// Events is the address of the socket that Follow reads; "" means none.
	Events string
	// Version is the program's, for the metrics.
	Version string
	// DataPath makes the command of the process that carries the forwards, apart
	// from the kubelet's calls. It has to run RunDataPath; its stdin and its
	// descriptors from 3 on are set by Run.
	DataPath func() *exec.Cmd `json:"-"`
	// Log gets a line for each forward, and whatever else explains a Node's
	// behaviour; nil means no log.
	Log *slog.Logger `json:"-"`
	// Ready, if set, is called once everything serves, and Stopping when it is
	// about to end.
	Ready    func(Addresses) `json:"-"`
	Stopping func()          `json:"-"`
}

// DefaultEvents is the usual address of the events socket.
const DefaultEvents = "unix:///run/porthole/events.sock"

// DefaultHandler is the name in PassThrough and in the metrics for pods without a runtime handler.
const DefaultHandler = "default"

const defaultStreaming = "127.0.0.1:0"

// Check says what is wrong with the fields, without touching anything. Run begins
// with it. Errors: ErrEndpoint, ErrBackend, ErrListen, ErrLoopback.
func (n *Node) Check() error {
	optional := func(endpoint string) string { return cmp.Or(endpoint, DefaultEvents) }
	for _, endpoint := range []string{n.Listen, n.Upstream, optional(n.Docker), optional(n.Events)} {
		if _, err := socketPath(endpoint); err != nil {
			return err
		}
	}
	if n.Backend != "" && n.Backend != Native && n.Backend != Socat {
		return fmt.Errorf("backend %q: %w", n.Backend, ErrBackend)
	}
	if n.StreamingAnywhere {
		return nil
	}
	return checkLoopback(cmp.Or(n.Streaming, defaultStreaming))
}

// Addresses are where a Node listens, as host:port or a socket's path; "" means that it does not.
type Addresses struct {
	CRI, Streaming, Metrics, Events string
}

// maxPath is what fits into a sockaddr_un, with its NUL (unix(7)).
const maxPath = 107

// socketPath is the path in an address unix:///PATH, or the address if it is only a path,
// which the kubelet accepts too. The error wraps ErrEndpoint.
func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	switch {
	case !strings.HasPrefix(path, "/"):
		return "", fmt.Errorf("endpoint %q: %w", endpoint, ErrEndpoint)
	case len(path) > maxPath:
		return "", fmt.Errorf("endpoint %q: %w of at most %d bytes", endpoint, ErrEndpoint, maxPath)
	}
	return path, nil
}

// checkLoopback refuses an address that others than this node could connect to.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return fmt.Errorf("streaming address %s: %w", address, ErrLoopback)
	}
	return nil
}
