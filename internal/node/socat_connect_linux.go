package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connectTime is how long socat is watched. One that has neither exited nor
// connected by then, or that cannot be seen behind a script of its name, is taken
// for one that works.
const connectTime = 5 * time.Second

// awaitConnect waits until the programs are connected to the port, or have exited
// because they cannot. socat tells nobody of the former, so its sockets are looked at.
func (c *socatConn) awaitConnect(ctx context.Context) error {
	limit := time.NewTimer(connectTime)
	defer limit.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 10*time.Millisecond) {
		switch connected, itself := c.connected(); {
		case itself:
			return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		case connected:
			return nil
		}
		select {
		case <-c.over:
			return c.ended
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit.C:
			return nil
		case <-time.After(pause):
		}
	}
}

// connected says whether the process has a socket that is, and whether that has met
// itself: see netns.Namespace.Dial.
func (c *socatConn) connected() (yes, itself bool) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		return false, false // it is exiting
	}
	_ = c.cmd.Process.WithHandle(func(pidfd uintptr) {
		for _, entry := range fds {
			fd, err := strconv.Atoi(entry.Name())
			if err == nil && fd > 2 && !yes {
				yes, itself = connectedFD(int(pidfd), fd)
			}
		}
	})
	return yes, itself
}

// connectedFD says whether a descriptor of another process is a connected TCP
// socket, and whether to itself.
func connectedFD(pidfd, fd int) (yes, itself bool) {
	ours, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return false, false
	}
	defer unix.Close(ours)
	name, err := unix.Getpeername(ours)
	if err != nil {
		return false, false
	}
	peer, inet := name.(*unix.SockaddrInet4)
	if name, err = unix.Getsockname(ours); !inet || err != nil {
		return inet, false
	}
	near, _ := name.(*unix.SockaddrInet4)
	return true, near != nil && near.Port == peer.Port && near.Addr == peer.Addr
}
