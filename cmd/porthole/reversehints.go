package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// reverseHint returns the hint for what goes wrong on the way back, at either end.
func reverseHint(err error) string {
	var bind *route.BindError
	var here *forward.HereError
	switch {
	case errors.As(err, &bind):
		return bindHint(bind)
	case errors.As(err, &here):
		return hereHint(here)
	}
	return ""
}

// bindHint returns the hint for an address that cannot be listened on at a target.
func bindHint(e *route.BindError) string {
	number := e.At.Port()
	switch {
	case errors.Is(e, syscall.EADDRINUSE):
		return fmt.Sprintf("`%sp` inside shows who listens there; take another port: REMOTE:LOCAL", listeners(e.At.Network == target.UDP))
	case errors.Is(e, syscall.EADDRNOTAVAIL):
		return "`ip addr` inside lists its addresses; `--listen 0.0.0.0` is all of IPv4"
	case errors.Is(e, target.ErrUnsupported):
		return "listening in a pod needs `porthole node --allow-reverse=loopback` on its node, or an agent; porthole elsewhere has to be as new as this one"
	case (errors.Is(e, os.ErrPermission) || errors.Is(e, tunnel.ErrDenied)) && 0 < number && number < 1024:
		return "ports below 1024 take CAP_NET_BIND_SERVICE over the target's namespace, or a lower net.ipv4.ip_unprivileged_port_start in it: take a higher port"
	case errors.Is(e, tunnel.ErrDenied):
		return "the far end decides what is listened on; for a node, --allow-reverse and --allow-ports do"
	}
	return ""
}

// hereHint returns the hint for what cannot be reached on this machine.
func hereHint(e *forward.HereError) string {
	switch {
	case errors.Is(e, syscall.ECONNREFUSED) && e.To.Host == "" && e.To.Network != target.Unix:
		return fmt.Sprintf("nothing listens on that port of 127.0.0.1 or ::1 here; `%s` shows what does", listeners(e.To.Network == target.UDP))
	case errors.Is(e, syscall.ECONNREFUSED), errors.Is(e, syscall.ENOENT):
		return "nothing listens there"
	case errors.Is(e, os.ErrDeadlineExceeded), errors.Is(e, context.DeadlineExceeded):
		return "that host does not answer"
	}
	return ""
}
