package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// helperPing is how often a helper is asked whether it is alive.
	helperPing = 5 * time.Second
	// helperSilence is after how long without a sign of life a helper ends by itself.
	helperSilence = 30 * time.Second
	// helperStart is how long a helper's container may take until it greets, without the loading of its image.
	helperStart = 30 * time.Second
	// helperEnd is how long a helper may take to end once its input has, and removeTime until its container is removed.
	helperEnd  = 2 * time.Second
	removeTime = 10 * time.Second
	// The pauses between attempts to start a helper.
	minHelperPause = 200 * time.Millisecond
	maxHelperPause = 5 * time.Second
)

// errHelperSlow means that a helper's container has not greeted in helperStart.
var errHelperSlow = errors.New("its program does not answer")

// HelperError is why there is no helper container beside a container.
type HelperError struct{ Err error }

func (e *HelperError) Error() string { return fmt.Sprintf("helper container: %v", e.Err) }

// Unwrap returns Err.
func (e *HelperError) Unwrap() error { return e.Err }

// helper leads into one container by another one beside it, in the same engine: that has the same network, runs porthole's agent,
// and carries a tunnel on its standard streams. It is started when it is needed, and again when it was lost.
type helper struct {
	engine *helperEngine
	of     found // the container
	files  bool  // reach its Unix sockets too, for which the helper sees its processes

	session string // takes over what an earlier helper has listened on
	shared  tunnel.Shared
	mu      sync.Mutex
	version string // of the last agent
	live    int    // connections and listeners
	left    bool   // leave was called
}

// newHelper does not start it yet. Close its tunnel in the end; its container is gone when the engine's helpers are closed.
func newHelper(e *helperEngine, of found, files bool) *helper {
	h := &helper{engine: e, of: of, files: files, session: tunnel.NewSession()}
	h.shared.Open, h.shared.MinPause, h.shared.MaxPause = h.open, minHelperPause, maxHelperPause
	return h
}

// start starts the helper, so that it is known whether that works. Errors: *HelperError, *ProgramError, and the context's.
func (h *helper) start(ctx context.Context) error {
	_, err := h.shared.Client(ctx)
	return err
}

// Dial implements route.Dialer.
func (h *helper) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	client, err := h.shared.Client(ctx)
	if err != nil {
		return nil, err
	}
	h.count(1)
	conn, err := client.Dial(to)
	if err != nil {
		h.count(-1)
	}
	return conn, err
}

// count counts connections, and ends the helper after the last one if it was left.
func (h *helper) count(more int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live += more; h.left && h.live == 0 {
		h.engine.work.Go(h.shared.Close)
	}
}

// leave closes the helper's tunnel once it has no connections. No more are made.
func (h *helper) leave() {
	h.mu.Lock()
	h.left = true
	h.mu.Unlock()
	h.count(0)
}

// close closes the helper's tunnel, with all connections.
func (h *helper) close() {
	h.mu.Lock()
	h.left = false // nothing is left to close
	h.mu.Unlock()
	h.shared.Close()
}

// over reports whether the helper was left by its last connection.
func (h *helper) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.left && h.live == 0
}

// Bind is a route.Binder.
func (h *helper) Bind(ctx context.Context, at target.Endpoint) (*route.Listener, error) {
	client, err := h.shared.Client(ctx)
	if err != nil {
		return nil, err
	}
	h.count(1)
	l, err := client.Listen(ctx, at, h.session)
	if err != nil {
		h.count(-1)
	}
	return l, err
}

// Listening tells what listens in the container, as a route.Result does. When the helper is lost it goes on with the next one.
func (h *helper) Listening(ctx context.Context, tell func([]target.Socket)) error {
	for {
		client, err := h.shared.Client(ctx)
		if err != nil {
			return err
		}
		if err = client.Listening(ctx, tell); !errors.Is(err, spdy.ErrTunnel) {
			return err
		}
	}
}

// otherVersion returns the version of the agent, if it is another one than this program's.
func (h *helper) otherVersion() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.version != h.engine.version {
		return h.version
	}
	return ""
}

// open makes one attempt to start a helper.
func (h *helper) open(ctx context.Context) (*tunnel.Client, error) {
	id, err := h.engine.create(ctx, h.config, h.hostConfig())
	var program *ProgramError
	switch {
	case errors.As(err, &program):
		return nil, err
	case err != nil:
		return nil, &HelperError{err}
	}
	stream, err := h.greeted(ctx, id)
	if err != nil {
		h.engine.remove(id)
		return nil, &HelperError{err}
	}
	h.engine.tidyOnce()
	cfg := spdy.Config{PingInterval: helperPing, PingTimeout: h.engine.silence}
	return tunnel.NewClient(removing{stream, func() { h.engine.remove(id) }}, tunnel.ClientConfig{SPDY: cfg, ConnClosed: func() { h.count(-1) }}), nil
}

// greeted starts the container and exchanges greetings with its agent.
func (h *helper) greeted(ctx context.Context, id string) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helperStart, errHelperSlow)
	defer cancel()
	api := h.engine.api
	conn, err := h.engine.way.attach(ctx, api.ClientVersion(), id)
	if err != nil {
		return nil, err
	}
	attached := newAttached(conn)
	stop := context.AfterFunc(ctx, func() { attached.Close() })
	var stream io.ReadWriteCloser
	var greeting tunnel.Greeting
	if _, err = api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err == nil {
		stream, greeting, err = tunnel.GreetServer(attached, tunnel.Greeting{Version: h.engine.version})
	}
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		attached.Close()
		return nil, attached.explain(err)
	}
	h.mu.Lock()
	h.version = greeting.Version
	h.mu.Unlock()
	return stream, nil
}

// explain returns why an agent has not greeted, by what it printed if it printed something.
func (a *attached) explain(err error) error {
	if line := a.stderr.LastLine(); line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// config is what a helper runs, and as whom. To find and to open a Unix socket of a process it takes capabilities, with which it
// becomes the user of that process before it does.
func (h *helper) config(image string) *container.Config {
	c := &container.Config{
		Image: image, Labels: map[string]string{helperLabel: h.of.ID},
		Cmd:       []string{"agent", "--stdio", "--here", "--exit-after", helperSilence.String()},
		OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, AttachStderr: true,
	}
	if h.files {
		c.User, c.Cmd = "0:0", append(c.Cmd, "--container-id", h.of.ID)
	}
	return c
}

// hostConfig is what a helper shares, and may do: as little as possible. Nothing of what passes is logged.
func (h *helper) hostConfig() *container.HostConfig {
	c := &container.HostConfig{
		NetworkMode: container.NetworkMode("container:" + h.of.ID), AutoRemove: true, ReadonlyRootfs: true,
		LogConfig: container.LogConfig{Type: "none"}, IpcMode: container.IPCModeNone,
		CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
	}
	if h.of.HostNetwork {
		c.NetworkMode = "host"
	}
	if h.files {
		c.PidMode = container.PidMode("container:" + h.of.ID)
		c.CapAdd = []string{"DAC_OVERRIDE", "SETGID", "SETUID", "SYS_PTRACE"}
	}
	return c
}

// removing is a stream that also removes its container when it is closed.
type removing struct {
	io.ReadWriteCloser
	remove func()
}

func (r removing) Close() error {
	err := r.ReadWriteCloser.Close()
	r.remove()
	return err
}
