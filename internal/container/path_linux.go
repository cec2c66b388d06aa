package container

import (
	"context"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// lookTime is how late it may be noticed that a path leads to another namespace.
const lookTime = time.Second

// atPath is a Binder for the namespace at a path. What it listens on is closed once another namespace is at
// the path, or none: a socket would keep the old one alive, without anybody in it.
func atPath(path string, bind route.Binder) route.Binder {
	return func(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
		before, err := netns.IDOf(path)
		if err != nil {
			return nil, err
		}
		l, err := bind(ctx, at)
		if err == nil {
			go closeWhenReplaced(l, path, before)
		}
		return l, err
	}
}

// closeWhenReplaced returns when the listener is closed, by whomever.
func closeWhenReplaced(l *route.Listener, path string, before netns.ID) {
	var socket any = l.Packets
	if l.Packets == nil {
		socket = l.Streams
	}
	raw, err := socket.(syscall.Conn).SyscallConn()
	for err == nil {
		time.Sleep(lookTime)
		if now, gone := netns.IDOf(path); gone != nil || now != before {
			_ = l.Close()
		}
		err = raw.Control(func(uintptr) {})
	}
}
