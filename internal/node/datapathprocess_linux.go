package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/portforward"
)

// The descriptors that the data path gets from its parent. Those of sockets that are
// not wanted are closed.
const (
	controlFD = 3 + iota
	streamingFD
	metricsFD
	eventsFD
)

// RunDataPath is what the command of Node.DataPath has to run: it carries the
// forwards until ctx, or the parent, ends. Log is as in Node.
func RunDataPath(ctx context.Context, log *slog.Logger) error {
	n := &Node{Log: log}
	if err := json.NewDecoder(os.Stdin).Decode(n); err != nil {
		return fmt.Errorf("data path: read settings: %w", err)
	}
	nameProcess("porthole-data")
	raiseOOMScore()
	unprioritize()
	limitHeap(n.Memory)
	c := newComponents(ctx)
	defer c.close()
	if err := n.startDataPath(c); err != nil {
		return fmt.Errorf("data path: %w", err)
	}
	<-c.ctx.Done()
	return c.failure()
}

// startDataPath opens and starts everything. It ends when ctx does, the parent hangs up,
// or a component fails.
func (n *Node) startDataPath(c *components) error {
	path, err := socketPath(n.Upstream)
	if err != nil {
		return err
	}
	upstream, err := newUpstream(path, slog.New(slog.DiscardHandler)) // the parent logs when the runtime comes and goes
	if err != nil {
		return err
	}
	c.owns(upstream.conn)
	c.tasks.Go(func() { upstream.keepConnected(c.ctx) })
	events, err := n.startEvents(c)
	if err != nil {
		return err
	}
	server := &portforward.Server{Memory: n.Memory, MaxTunnels: n.MaxTunnels, MaxPodTunnels: n.MaxPodTunnels, Log: n.logger()}
	c.owns(server)
	streaming, err := inherit(streamingFD, net.FileListener)
	if err != nil {
		return err
	}
	newWeb(streaming, server, n.logger()).start(c, "streaming")
	forbidden, err := n.forbidden()
	if err != nil {
		return err
	}
	f := &forwards{
		upstream:  upstream,
		sandboxes: sandboxes{cri: runtime.NewRuntimeServiceClient(upstream.conn), passThrough: n.PassThrough},
		backend:   newBackend(n.Backend, forbidden, n.logger()), policy: n.Policy, server: server, url: "http://" + streaming.Addr().String(),
		metrics: newForwardMetrics(server.Load), events: events, log: n.logger(),
	}
	if path, err := socketPath(n.Docker); err == nil {
		f.sandboxes.docker = newDocker(path)
	}
	f.unix = &unixSockets{sandboxes: &f.sandboxes, forbidden: forbidden}
	return n.serveDataPath(c, f)
}

// startEvents serves the events' socket, if there is one.
func (n *Node) startEvents(c *components) (*events, error) {
	e := newEvents(n.logger())
	c.onClose(e.close)
	if n.Events == "" {
		return e, nil
	}
	l, err := inherit(eventsFD, net.FileListener)
	if err != nil {
		return nil, err
	}
	c.owns(l)
	c.tasks.Go(func() { e.serve(l) })
	return e, nil
}

// serveDataPath serves the page of metrics and the parent's calls.
func (n *Node) serveDataPath(c *components, f *forwards) error {
	parent := newParentMetrics()
	if n.Metrics != "" {
		l, err := inherit(metricsFD, net.FileListener)
		if err != nil {
			return err
		}
		newWeb(l, f.metrics.handler(parent), n.logger()).start(c, "metrics")
	}
	conn, err := inherit(controlFD, net.FileConn)
	if err != nil {
		return err
	}
	control := newConnListener(conn)
	c.owns(control)
	calls := newServer(func(_ any, down grpc.ServerStream) error {
		switch method, _ := grpc.MethodFromServerStream(down); method {
		case runtime.RuntimeService_PortForward_FullMethodName:
			return f.answer(down)
		case parentMetricsMethod:
			return parent.ask(down)
		}
		return status.Error(codes.Unimplemented, "not a call of the data path")
	})
	c.onClose(calls.Stop)
	c.tasks.Go(func() {
		_ = calls.Serve(nonblock.Listener{Listener: control}) // until the parent hangs up
		c.stop(context.Canceled)
	})
	return nil
}

// inherit makes a socket of a descriptor that the parent has left open.
func inherit[S any](fd uintptr, open func(*os.File) (S, error)) (S, error) {
	file := os.NewFile(fd, "inherited")
	defer file.Close()
	s, err := open(file)
	if err != nil {
		return s, fmt.Errorf("socket %d of `porthole node`, which starts this process: %w", fd, err)
	}
	return s, nil
}

// connListener is a listener with one connection, which ends with that.
type connListener struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
	taken  bool // by Accept, which is called by one goroutine
}

func newConnListener(c net.Conn) *connListener {
	return &connListener{conn: c, closed: make(chan struct{})}
}

// Accept returns the connection, and the second time net.ErrClosed when that is closed.
func (l *connListener) Accept() (net.Conn, error) {
	if !l.taken {
		l.taken = true
		return listenedConn{l.conn, l}, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

// Addr implements net.Listener.
func (l *connListener) Addr() net.Addr { return l.conn.LocalAddr() }

// Close closes the connection as well.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.conn.Close()
}

// listenedConn closes its listener with itself.
type listenedConn struct {
	net.Conn
	listener *connListener
}

func (c listenedConn) Close() error { return c.listener.Close() }
