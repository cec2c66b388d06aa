package main

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"porthole.dev/porthole/internal/tunnel"
)

// hostHint returns the hint for a port of a host, as the target sees it.
func hostHint(err error) string {
	switch {
	case errors.Is(err, tunnel.ErrDenied):
		return "a node is no relay: `--via agent` reaches it from the pod, and host://NAME from the cluster; a relay refuses names that lead to link-local addresses, and takes the address"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens on that port of that host, or a firewall refuses it"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no way to that host from the target: `ip route` inside shows where there is one"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "that host does not answer: is it up, or does a firewall drop what is sent to it?"
	}
	return ""
}

// listeners is the command that lists who listens.
func listeners(udp bool) string {
	if udp {
		return "ss -lun"
	}
	return "ss -ltn"
}

// unixHint returns the hint for a Unix socket of the target that cannot be connected to.
func unixHint(op *net.OpError) string {
	switch {
	case errors.Is(op, syscall.ENOENT), errors.Is(op, syscall.ENOTDIR):
		return "the path is one inside the container; `porthole targets TARGET`, or `ss -lx` inside, lists its sockets"
	case errors.Is(op, syscall.ECONNREFUSED):
		return "nobody listens on that socket; `ss -lx` inside shows who listens on which"
	case errors.Is(op, syscall.EACCES):
		return "the process' own user may not connect to it; `ls -l` inside shows who may"
	case errors.Is(op, syscall.ENOTSOCK):
		return "a file of another kind is there"
	case errors.Is(op, syscall.EPROTOTYPE):
		return "it is not a socket for streams"
	case errors.Is(op, syscall.ELOOP):
		return "symbolic links of /proc are not followed, nor are more than 40 in a row"
	case errors.Is(op, syscall.EINVAL):
		return "a path has 107 bytes at most"
	}
	return ""
}

// remoteUnixHint returns the hint for a Unix socket at the far end of a tunnel.
func remoteUnixHint(e *tunnel.PortError) string {
	switch {
	case errors.Is(e, syscall.ECONNREFUSED):
		return unixHint(&net.OpError{Err: syscall.ECONNREFUSED})
	case errors.Is(e, tunnel.ErrDenied):
		return "on a node, its --allow-unix and what the socket lies on decide, and `--via agent` goes around it; elsewhere its mode: `ls -l` inside shows whose it is"
	}
	return "the path is one inside the target; `ss -lx` inside shows who listens on which"
}
