package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
)

const (
	// answerTime is how long an engine may take for an answer.
	answerTime = 10 * time.Second
	// reconnectPause is between two attempts to connect. A connect to a Unix socket costs microseconds.
	reconnectPause = 100 * time.Millisecond
)

// runtimeConn is a connection to an engine that speaks gRPC at a Unix socket. It is made when it is first used, and
// again when it was lost.
type runtimeConn struct {
	*grpc.ClientConn
	engine target.Scheme
	path   string

	failure atomic.Pointer[error] // why the last attempt to connect failed
	peer    atomic.Int64          // the number of the process that listens, as it is seen from here; 0 for none
}

func newRuntimeConn(engine target.Scheme, path string) (*runtimeConn, error) {
	c := &runtimeConn{engine: engine, path: path}
	conn, err := grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(c.dial),
		grpc.WithAuthority("localhost"),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectPause, Multiplier: 1, MaxDelay: reconnectPause},
			MinConnectTimeout: answerTime,
		}))
	if err != nil {
		return nil, c.engineError(err)
	}
	c.ClientConn = conn
	return c, nil
}

func (c *runtimeConn) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	if err != nil {
		c.failure.Store(&err)
		return nil, err
	}
	peer, err := proc.Peer(conn.(*net.UnixConn))
	if err != nil {
		conn.Close()
		c.failure.Store(&err)
		return nil, err
	}
	c.peer.Store(int64(peer.Pid))
	return conn, nil
}

// limited ends a question that the engine does not answer.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, answerTime, ErrNoAnswer)
}

// explain says why a question failed, of which ctx is the context. It returns errors that are not gRPC's as they are.
func (c *runtimeConn) explain(ctx context.Context, err error) error {
	answer, ok := status.FromError(err)
	switch code := answer.Code(); {
	case err == nil, !ok:
		return err
	case errors.Is(context.Cause(ctx), ErrNoAnswer):
		return c.engineError(ErrNoAnswer)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case code == codes.ResourceExhausted: // containerd itself stops at 16 MiB
		return c.engineError(fmt.Errorf("%w: %s", ErrLongAnswer, answer.Message()))
	case code == codes.Unimplemented:
		return c.engineError(ErrNoInterface)
	case code == codes.Unavailable && c.failure.Load() != nil:
		return c.connectError(*c.failure.Load())
	}
	return c.engineError(errors.New(answer.Message()))
}

// connectError names the usual reasons why a socket cannot be connected to.
func (c *runtimeConn) connectError(err error) error {
	e := c.engineError(err)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		e.Err = ErrNoEngine
	case errors.Is(err, os.ErrPermission):
		e.Err, e.Group = ErrEnginePermission, groupOf(c.path)
	}
	return e
}

func (c *runtimeConn) engineError(err error) *EngineError {
	return &EngineError{Engine: c.engine, Address: "unix://" + c.path, Err: err}
}
