package forward

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// activity tells whether a client's connection is in use. The kernel keeps the times
// of TCP (TCP_INFO, tcp(7)), so that moving bytes costs nothing more. Of Unix sockets it
// knows only what is on its way.
type activity struct{ conn socket }

func activityOf(c socket) activity { return activity{c} }

// moves reports whether the connection is in use.
func (a activity) moves() bool {
	raw, err := a.conn.(syscall.Conn).SyscallConn()
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
	unanswered := came < went || info.Data_segs_in > 0 && info.Data_segs_out == 0
	return inUse(came, went, unanswered || info.State == unix.BPF_TCP_CLOSE_WAIT)
}
