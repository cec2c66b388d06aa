package container

import (
	"context"
	"os"
	goruntime "runtime"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"porthole.dev/porthole/internal/proc"
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

// OwnedByTime reports whether this process is taken for one of a container of the engine in one of docker's contexts, whose
// process would have this process' number and have begun with it.
func OwnedByTime(ctx context.Context, engineContext, name string) (bool, error) {
	e, err := newDocker(engineContext)
	if err != nil {
		return false, err
	}
	defer e.Close()
	all, err := e.find(ctx, target.Target{Scheme: target.Docker, Name: name})
	if err != nil {
		return false, err
	}
	c := all[0]
	stat, err := proc.ReadStat(os.Getpid())
	if err != nil {
		return false, err
	}
	began, err := bootTime()
	c.PID, c.Started = os.Getpid(), began.Add(time.Duration(stat.Started)*time.Second/clockTicks)
	return isProcessOf(c), err
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

// TriedHelpers reports whether a helper container was asked for, in any engine.
func TriedHelpers(o *Opener) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.engines {
		e.mu.Lock()
		tried := e.helpers != nil
		e.mu.Unlock()
		if tried {
			return true
		}
	}
	return false
}
