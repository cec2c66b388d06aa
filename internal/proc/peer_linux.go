package proc

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// Peer returns who is at the other end of a connection: the process that has connected, or that listens, and its user (SO_PEERCRED
// of unix(7)). Pid is 0 for a process of a PID namespace that is not seen from here.
func Peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	failed := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return peer, errors.Join(failed, err)
}
