package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"porthole.dev/porthole/internal/nonblock"
)

const (
	// retryInterval is how often a runtime that is away is tried again. A connect to
	// a Unix socket costs microseconds.
	retryInterval = 100 * time.Millisecond
	// upstreamTimeout is how long a call waits for a runtime that is away.
	upstreamTimeout = 10 * time.Second
	// maxMessage is the largest message that is passed on, in bytes. The ends
	// have limits of their own; kubelets and containerd stop at 16 MiB.
	maxMessage = 64 << 20
	// window is how much may be in flight in a stream, in bytes. A fixed one
	// saves the pings by which gRPC would find out.
	window = 1 << 20
)

// upstream is a connection that calls are passed on to: the runtime, or the data
// path. It is made again by itself.
type upstream struct {
	name    string // what it is, for messages
	address string
	connect func(context.Context) (net.Conn, error)
	conn    *grpc.ClientConn
	log     *slog.Logger

	timeout time.Duration         // upstreamTimeout, except in tests
	failure atomic.Pointer[error] // why the last connect failed
}

// newUpstream prepares the connection to the runtime at a socket's path; keepConnected
// makes it. The caller closes conn.
func newUpstream(path string, log *slog.Logger) (*upstream, error) {
	u := &upstream{name: "container runtime", address: path, log: log}
	u.connect = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return u, u.init()
}

func (u *upstream) init() error {
	u.timeout = upstreamTimeout
	conn, err := grpc.NewClient("passthrough:///"+u.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(u.dial),
		grpc.WithAuthority("localhost"), // as the kubelet sends it
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryInterval, Multiplier: 1, MaxDelay: retryInterval},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return fmt.Errorf("%s %s: %w", u.name, u.address, err)
	}
	u.conn = conn
	return nil
}

func (u *upstream) dial(ctx context.Context, _ string) (net.Conn, error) {
	c, err := u.connect(ctx)
	if err != nil {
		u.failure.Store(&err)
		return nil, err
	}
	return nonblock.Conn(c), nil
}

// keepConnected keeps the connection up until ctx ends, and logs when it comes and goes.
func (u *upstream) keepConnected(ctx context.Context) {
	logged := connectivity.State(-1)
	for {
		state := u.conn.GetState()
		switch state {
		case connectivity.Idle:
			u.conn.Connect()
		case logged:
		case connectivity.Ready:
			u.log.Info("node: connected to the runtime", "socket", u.address)
			logged = state
		case connectivity.TransientFailure:
			u.log.Warn("node: waiting for the runtime", "socket", u.address, "err", u.reason())
			logged = state
		}
		if !u.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (u *upstream) up() bool { return u.conn.GetState() == connectivity.Ready }

// connectBefore connects, and says whether that worked before ctx ended.
func (u *upstream) connectBefore(ctx context.Context) bool {
	for state := u.conn.GetState(); state != connectivity.Ready; state = u.conn.GetState() {
		u.conn.Connect()
		if !u.conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
	return true
}

// awaitReady returns once calls can be made, or with a status that says why not. It
// leaves a part of the caller's time for the answer to arrive.
func (u *upstream) awaitReady(ctx context.Context) error {
	if u.up() {
		return nil
	}
	limit := u.timeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)*9/10)
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch {
	case u.connectBefore(waiting):
		return nil
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Errorf(codes.Unavailable, "porthole node: the %s is not there: %v", u.name, u.reason())
}

func (u *upstream) reason() error {
	if err := u.failure.Load(); err != nil {
		return *err
	}
	return fmt.Errorf("%s: no answer yet", u.address)
}
