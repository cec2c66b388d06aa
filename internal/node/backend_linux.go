package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// backend enters pods. It is called from many goroutines at once.
type backend interface {
	// dial connects to a port of the sandbox, of TCP or UDP.
	dial(ctx context.Context, s *sandbox, to target.Address) (pipe.Conn, error)
}

// newBackend makes the backend b, which enters none of the forbidden namespaces.
func newBackend(b Backend, forbidden []netns.ID, log *slog.Logger) backend {
	if b == Socat {
		return socat{log: log, forbidden: forbidden}
	}
	return &native{forbidden: forbidden}
}

// sandboxDialer is the Dialer to a sandbox, as far as the policy allows it.
type sandboxDialer struct {
	sandbox *sandbox
	backend backend
	policy  Policy
	unix    *unixSockets
	watches *listeningWatches
	dials   chan struct{} // has room for connections to Unix sockets that are on their way
}

// Dial connects to a port of the sandbox, never to another host's: the node is no relay.
func (d *sandboxDialer) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	switch {
	case to.Host != "":
		return nil, fmt.Errorf("%s: a node reaches no other hosts: %w", to, tunnel.ErrDenied)
	case to.Network == target.Unix:
		return d.dialUnix(ctx, to.Path)
	}
	if err := d.policy.check(d.sandbox.hostNetwork, to.Port); err != nil {
		return nil, err
	}
	return d.backend.dial(ctx, d.sandbox, to)
}

// native makes sockets inside pods' network namespaces and connects them from outside.
// Connections to one pod at the same time share its open namespace, and enter it one
// after the other: each through its own would take a thread each on a busy machine.
type native struct {
	forbidden []netns.ID // are not entered

	mu     sync.Mutex
	shared map[netnsRef]*sharedNetns
}

// sharedNetns is a namespace that is open for as long as connections use it.
type sharedNetns struct {
	open  func() (*netns.Namespace, error) // once, for all who share it
	users int                              // guarded by native.mu
}

// maxUnsent is how much a pod's socket takes that it cannot send yet, in bytes.
const maxUnsent = 256 << 10

// dial keeps what a port does not read with its sender and out of the kernel, where it
// would be up to 4 MiB for each connection (TCP_NOTSENT_LOWAT of tcp(7)).
func (n *native) dial(ctx context.Context, s *sandbox, to target.Address) (pipe.Conn, error) {
	shared := n.acquire(s.netns)
	defer n.release(s.netns, shared)
	ns, err := shared.open()
	if err != nil {
		return nil, err
	}
	conn, err := ns.Dial(ctx, to)
	if err != nil {
		return nil, entryError(err)
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn, nil
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
		})
	}
	return conn, nil
}

func (n *native) acquire(ref netnsRef) *sharedNetns {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shared[ref]
	if s == nil {
		if n.shared == nil {
			n.shared = map[netnsRef]*sharedNetns{}
		}
		s = &sharedNetns{open: sync.OnceValues(func() (*netns.Namespace, error) { return ref.open(n.forbidden) })}
		n.shared[ref] = s
	}
	s.users++
	return s
}

// release closes the namespace after its last user.
func (n *native) release(ref netnsRef, s *sharedNetns) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	delete(n.shared, ref)
	if ns, err := s.open(); err == nil { // it has been opened already, by this user
		ns.Close()
	}
}
