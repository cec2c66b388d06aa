package node

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// connectTime is how long socat is watched. One that has neither exited nor
// connected by then, or that cannot be seen behind a script of its name, is taken
// for one that works.
const connectTime = time.Second

// awaitConnect waits until the programs are connected to the port, or have exited
// because they cannot. socat tells nobody of the former, so its sockets are looked at.
func (c *socatConn) awaitConnect(ctx context.Context) error {
	limit := time.NewTimer(connectTime)
	defer limit.Stop()
	for pause := time.Millisecond; !c.connected(); pause = min(2*pause, 10*time.Millisecond) {
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
	return nil
}

// connected says whether the process has a socket that is.
func (c *socatConn) connected() (yes bool) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		return false // it is exiting
	}
	_ = c.cmd.Process.WithHandle(func(pidfd uintptr) {
		for _, entry := range fds {
			fd, err := strconv.Atoi(entry.Name())
			yes = yes || err == nil && fd > 2 && connectedFD(int(pidfd), fd)
		}
	})
	return yes
}

// connectedFD says whether a descriptor of another process is a connected TCP socket.
func connectedFD(pidfd, fd int) bool {
	ours, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(ours)
	peer, err := unix.Getpeername(ours)
	if err != nil {
		return false
	}
	_, inet := peer.(*unix.SockaddrInet4)
	return inet
}
