package pipe

import (
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// awaitSocketError waits, after a socket's end of file, until it fails or is closed.
func (s *side) awaitSocketError() error { return s.socketError(syscall.RawConn.Read) }

// takeSocketError is the error that a socket has for its next reader or writer, who then
// does not get it any more.
func (s *side) takeSocketError() error {
	return s.socketError(func(raw syscall.RawConn, look func(uintptr) bool) error {
		return raw.Control(func(fd uintptr) { look(fd) })
	})
}

// socketError looks for the socket's pending error, SO_ERROR of socket(7), which clears
// it; call says when. A Conn that is no socket has none.
func (s *side) socketError(call func(raw syscall.RawConn, look func(fd uintptr) bool) error) error {
	if s.raw == nil {
		return nil
	}
	var failure error
	err := call(s.raw, func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			failure = os.NewSyscallError("getsockopt", err)
		} else if code != 0 {
			failure = &net.OpError{Op: "read", Net: "tcp", Err: syscall.Errno(code)}
		}
		return failure != nil
	})
	if err != nil {
		return err
	}
	return failure
}

// confirmTime is how long a write that has failed may take to report it. Its system call
// has returned already.
const confirmTime = 10 * time.Second

// confirmEOF is called with a socket whose end of file was read, and returns the failure
// that it stands for, if any: a reset looks like an end of file when a write at the same
// time has taken the error away. Such a socket is closed (POLLHUP of poll(2)) and has no
// error any more. A Unix socket is closed as soon as its peer is, and nothing that was sent
// is lost by that (unix(7)).
func (s *side) confirmEOF() error {
	if !s.isTCP() {
		return nil
	}
	hungUp, failed := pollSocket(s.raw)
	if !hungUp || failed || s.writeClosed.Load() { // a socket that was shut down both ways is closed, too
		return nil
	}
	limit := time.NewTimer(confirmTime)
	defer limit.Stop()
	select {
	case <-s.lost:
		return s.hiddenLoss()
	case <-limit.C: // never seen
		return &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
}

// pollSocket says whether a socket is closed, and whether it has a pending error.
func pollSocket(raw syscall.RawConn) (hungUp, failed bool) {
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, 0); err == nil {
			hungUp, failed = fds[0].Revents&unix.POLLHUP != 0, fds[0].Revents&unix.POLLERR != 0
		}
	})
	return hungUp, failed
}

// isTCP reports whether the Conn is a socket that can be reset.
func (s *side) isTCP() bool {
	_, ok := s.Conn.(interface{ SetLinger(seconds int) error })
	return ok && s.raw != nil
}

const (
	ackPause    = time.Millisecond
	maxAckPause = 50 * time.Millisecond
)

// awaitAcks waits until the peer of a TCP connection has what was written to it, because
// a reset discards what has not arrived. It does not wait for a peer that is gone, nor
// for long for one that takes nothing.
func (s *side) awaitAcks() {
	if !s.isTCP() {
		return
	}
	least, until := -1, time.Time{}
	for pause := ackPause; ; pause = min(2*pause, maxAckPause) {
		left := unackedBytes(s.raw)
		switch {
		case left == 0:
			return
		case least < 0 || left < least:
			least, until = left, time.Now().Add(giveUpTime)
		case time.Now().After(until):
			return
		}
		time.Sleep(pause)
	}
}

// unackedBytes is how much of a connection its peer has not confirmed (SIOCOUTQ, tcp(7)):
// 0 where there is no peer any more.
func unackedBytes(raw syscall.RawConn) (n int) {
	if hungUp, failed := pollSocket(raw); hungUp || failed {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if left, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			n = left
		}
	})
	return n
}
