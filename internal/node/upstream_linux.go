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
)

const (
	// retry is how often a runtime that is away is looked for. A connect to a
	// Unix socket costs microseconds.
	retry = 100 * time.Millisecond
	// defaultPatience is how long a call waits for a runtime that is away.
	defaultPatience = 10 * time.Second
	// maxMessage is the largest message that is passed on, in octets. The ends
	// have limits of their own; kubelets and containerd stop at 16 MiB.
	maxMessage = 64 << 20
	// window is how much may be on its way in a stream, in octets. A fixed one
	// spares the pings by which gRPC would find out.
	window = 1 << 20
)

// upstream is a connection that calls are passed on to: the runtime, or the data
// path. It comes back by itself.
type upstream struct {
	name    string // what it is, for messages
	address string
	connect func(context.Context) (net.Conn, error)
	conn    *grpc.ClientConn
	log     *slog.Logger

	patience time.Duration         // defaultPatience, except in tests
	failure  atomic.Pointer[error] // why the last connect failed
}

// newUpstream begins to connect to the runtime at a socket's path; follow keeps at
// it. The caller closes conn.
func newUpstream(path string, log *slog.Logger) (*upstream, error) {
	u := &upstream{name: "container runtime", address: path, log: log}
	u.connect = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return u, u.init()
}

func (u *upstream) init() error {
	u.patience = defaultPatience
	conn, err := grpc.NewClient("passthrough:///"+u.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(u.dial),
		grpc.WithAuthority("localhost"), // as the kubelet has it
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retry, Multiplier: 1, MaxDelay: retry},
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
	return unannounce(c), nil
}

// follow keeps the connection up until ctx ends, and tells when it comes and goes.
func (u *upstream) follow(ctx context.Context) {
	var told connectivity.State = -1
	for {
		state := u.conn.GetState()
		if state == connectivity.Idle {
			u.conn.Connect()
		}
		if (state == connectivity.Ready || state == connectivity.TransientFailure) && state != told {
			told = state
			u.tell(state)
		}
		if !u.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (u *upstream) tell(state connectivity.State) {
	if state == connectivity.Ready {
		u.log.Info("node: connected to the runtime", "socket", u.address)
		return
	}
	u.log.Warn("node: waiting for the runtime", "socket", u.address, "err", u.reason())
}

func (u *upstream) up() bool { return u.conn.GetState() == connectivity.Ready }

// await returns once it can be called, or with a status that says why
// not. It leaves a part of the caller's time for the answer to arrive.
func (u *upstream) await(ctx context.Context) error {
	if u.up() {
		return nil
	}
	limit := u.patience
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)*9/10)
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for state := u.conn.GetState(); state != connectivity.Ready; state = u.conn.GetState() {
		u.conn.Connect()
		if !u.conn.WaitForStateChange(waiting, state) {
			return u.absent(ctx)
		}
	}
	return nil
}

// absent is the status for a caller who waited in vain.
func (u *upstream) absent(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return status.Errorf(codes.Unavailable, "porthole node: the %s is not there: %v", u.name, u.reason())
}

func (u *upstream) reason() error {
	if err := u.failure.Load(); err != nil {
		return *err
	}
	return fmt.Errorf("%s: no answer yet", u.address)
}
