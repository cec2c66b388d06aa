package node

import (
	"context"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

// entrances are the namespaces that are being entered just now. Who comes to one
// that is open shares it, and they go in one after the other: each through its own
// would take a thread each on a busy machine. The last to leave closes it. The zero
// value is ready to use.
type entrances struct {
	forbidden []netns.ID // are not entered

	mu  sync.Mutex
	all map[place]*entrance
}

type entrance struct {
	open  func() (*netns.Namespace, error) // once, for all who share it
	users int                              // guarded by entrances.mu
}

// dial connects to a port inside.
func (e *entrances) dial(ctx context.Context, p place, port uint16) (pipe.Conn, error) {
	at := e.join(p)
	defer e.leave(p, at)
	ns, err := at.open()
	if err != nil {
		return nil, err
	}
	conn, err := ns.Dial(ctx, target.TCPPort(port))
	if err != nil {
		return nil, gone(denied(err))
	}
	limitUnsent(conn)
	return conn, nil
}

// maxUnsent is how much a pod's socket takes that it cannot send yet, in octets.
const maxUnsent = 256 << 10

// limitUnsent has what a port does not read wait with its sender and not in the kernel,
// where it would be up to 4 MiB for each connection (TCP_NOTSENT_LOWAT of tcp(7)).
func limitUnsent(conn pipe.Conn) {
	if s, ok := conn.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
			})
		}
	}
}

func (e *entrances) join(p place) *entrance {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.all[p]
	if at == nil {
		if e.all == nil {
			e.all = map[place]*entrance{}
		}
		at = &entrance{open: sync.OnceValues(func() (*netns.Namespace, error) { return p.openExcept(e.forbidden) })}
		e.all[p] = at
	}
	at.users++
	return at
}

func (e *entrances) leave(p place, at *entrance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at.users--; at.users > 0 {
		return
	}
	delete(e.all, p)
	if ns, err := at.open(); err == nil { // it has been, by who leaves
		ns.Close()
	}
}
