package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
)

const (
	// maxStderr is how much of the programs' stderr becomes the text of an error, in bytes.
	maxStderr = 4 << 10
	// exitTime is how long the programs have to exit after their last byte; the exit
	// status says whether that was all. socat itself waits half a second for the other
	// direction (its option -t).
	exitTime = 2 * time.Second
)

// socat runs nsenter, and in it socat, for each connection.
type socat struct {
	log       *slog.Logger
	forbidden []netns.ID // are not entered
}

// dial starts the programs and waits until they are connected. If they fail, the
// error has what they wrote to stderr.
func (b socat) dial(ctx context.Context, s *sandbox, to target.Address) (pipe.Conn, error) {
	port, err := to.TCPOnly()
	if err != nil {
		return nil, fmt.Errorf("the socat backend: %w", err)
	}
	argv, err := socatCommand(s.netns, port)
	if err != nil {
		return nil, err
	}
	if err := s.netns.check(b.forbidden); err != nil {
		return nil, err
	}
	b.log.Debug("executing port forwarding command: " + strings.Join(argv, " "))
	c, err := startSocat(argv)
	if err != nil {
		return nil, err
	}
	if err := c.awaitConnect(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// socatCommand is the command line of early kubelets, with their well-known errors for
// missing programs.
func socatCommand(ref netnsRef, port uint16) ([]string, error) {
	socat, err := exec.LookPath("socat")
	if err != nil {
		return nil, errors.New("unable to do port forwarding: socat not found.") //nolint:staticcheck // the kubelet's own text
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, errors.New("unable to do port forwarding: nsenter not found.") //nolint:staticcheck // the kubelet's own text
	}
	argv := []string{nsenter, "-t", strconv.Itoa(ref.pid), "-n"}
	if ref.pid == 0 {
		argv = []string{nsenter, "--net=" + ref.path}
	}
	return append(argv, socat, "-", fmt.Sprintf("TCP4:localhost:%d", port)), nil
}

// socatConn is a connection through the programs' stdin and stdout, which are one
// socket, so that either direction ends by itself. It owns the process.
type socatConn struct {
	conn   *net.UnixConn
	cmd    *exec.Cmd
	over   chan struct{} // closed when the process is reaped
	ended  error         // how; set before over is closed
	stderr stderrText
	killed atomic.Bool // by Close
}

func startSocat(argv []string) (*socatConn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	c := &socatConn{conn: ours, cmd: exec.Command(argv[0], argv[1:]...), over: make(chan struct{})}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = theirs, theirs, &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a terminal's Ctrl-C does not reach it
	c.cmd.WaitDelay = exitTime
	if err := c.cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("unable to do port forwarding: %w", err)
	}
	go c.reap()
	return c, nil
}

func (c *socatConn) reap() {
	err := c.cmd.Wait()
	switch {
	case c.killed.Load():
		c.ended = net.ErrClosed
	case err != nil:
		c.ended = &commandError{err: err, text: c.stderr.String()}
	}
	close(c.over)
}

// Read reads what the pod sends. Its end counts as an end of file only if the programs
// exit without an error, since failures end it as well.
func (c *socatConn) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

func (c *socatConn) Write(p []byte) (int, error) {
	n, err := c.conn.Write(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// CloseWrite closes the programs' stdin.
func (c *socatConn) CloseWrite() error { return c.conn.CloseWrite() }

// explain replaces an end by the reason why the programs exited.
func (c *socatConn) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return err
	}
	wait := time.NewTimer(exitTime)
	defer wait.Stop()
	select {
	case <-c.over:
	case <-wait.C:
		return err
	}
	if c.ended != nil {
		return c.ended
	}
	return err
}

// Close ends the programs. nsenter has executed socat, so that there is one process
// to kill; Process holds it by a pidfd, and never kills another.
func (c *socatConn) Close() error {
	c.killed.Store(true)
	_ = c.cmd.Process.Kill() // os.ErrProcessDone, mostly
	return c.conn.Close()
}

// commandError is how the programs failed, formatted like the errors of early kubelets.
type commandError struct {
	err  error // exit status 1
	text string
}

func (e *commandError) Error() string {
	if e.text == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("%v: %s", e.err, e.text)
}

func (e *commandError) Unwrap() error { return e.err }

// Is recognizes the text of strerror(3) in socat's message, since nothing else reports
// the error.
func (e *commandError) Is(target error) bool {
	return target == syscall.ECONNREFUSED && strings.HasSuffix(e.text, "Connection refused") ||
		target == syscall.ECONNRESET && strings.HasSuffix(e.text, "Connection reset by peer")
}

// stderrText keeps the end of what a program writes.
type stderrText struct {
	mu   sync.Mutex
	text []byte
}

func (s *stderrText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	s.text = s.text[max(0, len(s.text)-maxStderr):]
	return len(p), nil
}

func (s *stderrText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(bytes.TrimSpace(s.text))
}

// connectTime is how long socat is watched. If it has neither exited nor connected by
// then, for instance because a script of that name has started it, it counts as
// connected.
const connectTime = 5 * time.Second

// awaitConnect waits until the programs are connected to the port, or have exited
// because they cannot. socat does not signal that it is connected, so its sockets are
// examined.
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

// connected says whether the process has a connected socket, and whether that is
// connected to itself: see netns.Namespace.Dial.
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
