package forward

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// activity tells whether a client's connection is in use. The kernel keeps the times
// (TCP_INFO, tcp(7)), so that moving bytes costs nothing more.
type activity struct{ conn *net.TCPConn }

func activityOf(c *net.TCPConn) activity { return activity{c} }

// moves reports whether the connection is in use.
func (a activity) moves() bool {
	raw, err := a.conn.SyscallConn()
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
	if err != nil || infoErr != nil {
		return false // it is closed
	}
	if unread > 0 || unsent > 0 {
		return true
	}
	came := time.Duration(info.Last_data_recv) * time.Millisecond
	went := time.Duration(info.Last_data_sent) * time.Millisecond
	unanswered := came < went || info.Data_segs_in > 0 && info.Data_segs_out == 0
	return inUse(came, went, unanswered || info.State == unix.BPF_TCP_CLOSE_WAIT)
}
