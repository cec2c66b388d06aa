package session

import (
	"context"
	"errors"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// ownSocket listens, for nobody, in the network that this process is in. A target that has it among what listens there is
// in the same network, whatever way leads to it.
type ownSocket struct {
	*route.Listener
	inode uint32 // which is all that sock_diag(7) tells of it
}

func openOwnSocket(ctx context.Context) (*ownSocket, error) {
	all, err := forward.Listen(ctx, []string{target.Localhost}, []target.Port{{}})
	if err != nil {
		return nil, err
	}
	forward.CloseAll(all[1:]) // one family will do
	raw, err := all[0].Streams.(*net.TCPListener).SyscallConn()
	var stat unix.Stat_t
	if err == nil {
		_ = raw.Control(func(fd uintptr) {
			// Whoever connects waits outside.
			err = errors.Join(unix.Listen(int(fd), 0), unix.Fstat(int(fd), &stat))
		})
	}
	if err != nil {
		_ = all[0].Close()
		return nil, err
	}
	return &ownSocket{all[0], uint32(stat.Ino)}, nil
}

// isAmong reports whether it is one of a list.
func (o *ownSocket) isAmong(all []target.Socket) bool {
	return slices.ContainsFunc(all, func(s target.Socket) bool { return s.Inode == o.inode && s.Endpoint == o.Local })
}
