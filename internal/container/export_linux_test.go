package container

import (
	"context"
	goruntime "runtime"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"porthole.dev/porthole/internal/target"
)

// ListOf lists the containers of an engine.
func ListOf(ctx context.Context, scheme target.Scheme) ([]Listed, error) {
	e, err := newEngine(engineKey{scheme: scheme})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.list(ctx)
}

// DialAs connects to the socket of an engine as another user, and returns why that fails.
func DialAs(ctx context.Context, scheme target.Scheme, path string, uid int) error {
	c, err := newRuntimeConn(scheme, path)
	if err != nil {
		return err
	}
	defer c.Close()
	result := make(chan error)
	go func() {
		goruntime.LockOSThread() // the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); errno != 0 {
			result <- errno
			return
		}
		if conn, err := c.dial(ctx, ""); err == nil {
			conn.Close()
			result <- nil
		} else {
			result <- c.explain(ctx, status.Error(codes.Unavailable, err.Error()))
		}
	}()
	return <-result
}
