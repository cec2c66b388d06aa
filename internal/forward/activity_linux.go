package forward

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/pipe"
)

// activity tells whether a client's connection is in use. The kernel keeps the times
// of TCP (TCP_INFO, tcp(7)), so that moving bytes costs nothing more. Of Unix sockets it
// knows only what is on its way.
type activity struct{ near, far pipe.Conn } // to the client, to the target

func activityOf(near, far pipe.Conn) activity { return activity{near, far} }

// moves reports whether the connection is in use. It is the near socket that tells, or the far one where
// the client comes through a tunnel. A client of UDP is never waited for.
func (a activity) moves() bool {
	if _, udp := a.far.(net.PacketConn); udp {
		return false
	}
	conn, isNear := a.near.(syscall.Conn)
	if !isNear {
		var ok bool
		if conn, ok = a.far.(syscall.Conn); !ok {
			return false
		}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var info *unix.TCPInfo
	var unread, unsent int
	var infoErr error
	err = raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		unsent, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	switch {
	case err != nil: // it is closed
		return false
	case unread > 0 || unsent > 0:
		return true
	case infoErr != nil:
		return false
	}
	came := time.Duration(info.Last_data_recv) * time.Millisecond
	went := time.Duration(info.Last_data_sent) * time.Millisecond
	if !isNear { // what the client has sent went out here
		return inUse(came, went, went < came || info.Data_segs_out > 0 && info.Data_segs_in == 0)
	}
	unanswered := came < went || info.Data_segs_in > 0 && info.Data_segs_out == 0
	return inUse(came, went, unanswered || info.State == unix.BPF_TCP_CLOSE_WAIT)
}
