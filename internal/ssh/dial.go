package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"time"

	"porthole.dev/porthole/internal/target"
)

// Dial runs a command on another host, through the system's ssh, and returns its standard input and output as a connection. The
// user's configuration of ssh counts. identity is the file of a private key; "" leaves that to ssh. The connection has no
// deadlines, and what fails there is seen when it is read: an *Error. ctx does not end it.
func Dial(_ context.Context, program string, host target.Host, identity, remoteCommand string) (net.Conn, error) {
	args := arguments(host, remoteCommand)
	if identity != "" {
		args = append([]string{"-i", identity}, args...)
	}
	p, err := run(program, args)
	if err != nil {
		return nil, &HostError{host, fmt.Errorf("start ssh: %w", err)}
	}
	command, _, _ := strings.Cut(remoteCommand, " ")
	return &conn{process: p, host: host, command: command}, nil
}

// conn is the connection of Dial.
type conn struct {
	*process
	host    target.Host
	command string
}

// Read implements net.Conn. That the command has failed is told in place of its end.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.process.Read(b)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	<-c.ended
	var exit *exec.ExitError
	if errors.As(c.status, &exit) {
		err = &Error{Host: c.host, Command: c.command, Status: exit.ExitCode(), Output: c.stderr.String(), Err: io.EOF}
	}
	return n, err
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address{c.host} }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address{c.host} }

// SetDeadline implements net.Conn. It does nothing, and neither do the others.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// address is that of another host.
type address struct{ target.Host }

// Network implements net.Addr.
func (address) Network() string { return "ssh" }
