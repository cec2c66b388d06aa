package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// bind is a route.Binder to addresses of the sandbox, as far as the policy allows it: never of the node's
// own network, whatever the runtime says of the pod. The backend is left out of it, since socat listens for
// one connection.
func (d *sandboxDialer) bind(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
	if err := d.policy.checkReverse(d.sandbox.hostNetwork, at); err != nil {
		return nil, err
	}
	hosts, err := hostNamespaces()
	if err != nil {
		return nil, err
	}
	l, err := d.sandbox.netns.bind(ctx, at, hosts)
	switch {
	case errors.Is(err, netns.ErrForbidden):
		return nil, errReverseHost
	case errors.Is(err, os.ErrPermission) && at.Port() < 1024 && !errors.Is(err, netns.ErrPermission):
		return nil, fmt.Errorf("port %d: the node's porthole has no CAP_NET_BIND_SERVICE, which ports below 1024 take here: %w", at.Port(), forward.Cause(err))
	case err != nil:
		return nil, markGone(err)
	}
	limitUnsent(l)
	return l, nil
}

// limitUnsent keeps what clients in the pod do not read with its sender and out of the kernel. Connections
// have it from their listener.
func limitUnsent(l *route.Listener) {
	tcp, ok := l.Streams.(*net.TCPListener)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
		})
	}
}

// checkReverse returns nil, or an error that wraps tunnel.ErrDenied.
func (p Policy) checkReverse(hostNetwork bool, at target.Endpoint) error {
	switch {
	case p.AllowReverse == ReverseNone:
		return deniedError("listening in pods is denied by the node's policy (--allow-reverse)")
	case hostNetwork:
		return errReverseHost
	case p.AllowReverse == ReverseLoopback && !at.Addr().IsLoopback():
		return deniedError(fmt.Sprintf("listening on %s in pods is denied by the node's policy (--allow-reverse=loopback)", at.Addr()))
	case at.Port() == 0 && len(p.Allow)+len(p.Deny) > 0:
		return deniedError("listening on any free port is denied by the node's policy (--allow-ports, --deny-ports)")
	case at.Port() == 0:
		return nil
	}
	return p.check(false, at.Port())
}

// errReverseHost refuses to listen on the node itself.
const errReverseHost = deniedError("the pod uses the node's network, where nothing is listened on (--allow-reverse)")

// reverseEvents are the names of the stages of what is listened on.
var reverseEvents = map[tunnel.Stage]string{tunnel.Listening: EventListening, tunnel.Stopped: EventStopped}

// recordListener reports what becomes of a listener, or of one that could not be.
func (f *forwards) recordListener(r Record) {
	f.metrics.countListener(r)
	line := append(r.place(), "address", r.Address, "client", r.Client)
	if r.Error != "" {
		line = append(line, "result", r.Result, "err", r.Error)
	}
	f.log.Info("node: reverse "+r.Event, line...)
}
