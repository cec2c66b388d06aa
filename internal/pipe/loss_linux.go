package pipe

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// confirmTime is how long a write that has failed may take to tell. Its system call has
// returned already.
const confirmTime = 10 * time.Second

// confirmEnd is called with a socket whose end of file was read, and says why it is none:
// a reset shows as one where a write at the same time has taken the error away. Such a
// socket is closed, which poll(2) tells by POLLHUP, and has no error any more.
func confirmEnd(src *end, raw syscall.RawConn) error {
	hungUp, failed := poll(raw)
	if !hungUp || failed || src.shut.Load() { // a socket that was shut down both ways is closed, too
		return nil
	}
	limit := time.NewTimer(confirmTime)
	defer limit.Stop()
	select {
	case <-src.lost:
		return src.falseEnd()
	case <-limit.C: // never seen
		return &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
}

// poll says whether a socket is closed, and whether it has an error to tell.
func poll(raw syscall.RawConn) (hungUp, failed bool) {
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); err == nil {
			hungUp, failed = fds[0].Revents&unix.POLLHUP != 0, fds[0].Revents&unix.POLLERR != 0
		}
	})
	return hungUp, failed
}

const (
	flushPause    = time.Millisecond
	maxFlushPause = 50 * time.Millisecond
)

// flush waits until the peer of a TCP connection has what was written to it, because a
// reset throws away what has not arrived. It does not wait for a peer that is gone, nor
// for long for one that takes nothing.
func flush(c Conn) {
	s, ok := c.(interface {
		syscall.Conn
		SetLinger(seconds int) error
	})
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	least, until := -1, time.Time{}
	for pause := flushPause; ; pause = min(2*pause, maxFlushPause) {
		left := unsent(raw)
		switch {
		case left == 0:
			return
		case least < 0 || left < least:
			least, until = left, time.Now().Add(patience*stallCheck)
		case time.Now().After(until):
			return
		}
		time.Sleep(pause)
	}
}

// unsent is how many octets of a connection its peer has not confirmed (SIOCOUTQ, tcp(7)):
// 0 where there is no peer any more.
func unsent(raw syscall.RawConn) (n int) {
	if hungUp, failed := poll(raw); hungUp || failed {
		return 0
	}
	err := raw.Control(func(fd uintptr) {
		var failed error
		if n, failed = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); failed != nil {
			n = 0
		}
	})
	if err != nil {
		return 0
	}
	return n
}
