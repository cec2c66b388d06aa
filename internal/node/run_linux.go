package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/nonblock"
)

// drainTime is how long calls have to finish when the node ends. The kubelet makes
// those that are cut short again.
const drainTime = 500 * time.Millisecond

// Run serves until ctx ends, which is no error. Forwards end with it; pods and the
// runtime do not notice. The errors are this package's, and netns.ErrPermission.
//
// What carries the forwards is in the data path, a process of its own, so that they do
// not delay the kubelet's calls.
func (n *Node) Run(ctx context.Context) error {
	if err := n.Check(); err != nil {
		return err
	}
	c := newComponents(ctx)
	var d *dataPath
	defer func() { c.close(); d.release() }()
	upstream, sockets, err := n.open(c)
	if err != nil {
		return err
	}
	methods := criMethods()
	metrics := newProxyMetrics(n.Version, methods, upstream.up)
	if d, err = newDataPath(n, sockets, metrics.registry); err != nil {
		return err
	}
	c.owns(d.conn)
	p := &proxy{upstream: upstream, dataPath: &d.upstream, observe: metrics.request, methods: methods, keepURLs: n.KeepURLs}
	return n.serve(c, p, d, sockets)
}

func (n *Node) logger() *slog.Logger {
	if n.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return n.Log
}

// open opens what the proxy needs before it serves: the connection to the runtime, and
// the sockets of the data path.
func (n *Node) open(c *components) (*upstream, *sockets, error) {
	// Every forward needs this permission, so its lack is reported early.
	own, err := netns.OpenPath(nodeNamespace)
	if err != nil {
		return nil, nil, err
	}
	defer own.Close()
	if err := own.Do(func() error { return nil }); err != nil {
		return nil, nil, err
	}
	if _, err := n.forbidden(); err != nil { // which the data path needs
		return nil, nil, err
	}
	path, err := socketPath(n.Upstream)
	if err != nil {
		return nil, nil, err
	}
	if listen, _ := socketPath(n.Listen); listen == path {
		return nil, nil, fmt.Errorf("listen on %s: the runtime's own: %w", path, ErrInUse)
	}
	upstream, err := newUpstream(path, n.logger())
	if err != nil {
		return nil, nil, err
	}
	c.owns(upstream.conn)
	s := &sockets{}
	c.onClose(s.close)
	return upstream, s, s.open(n)
}

// forbidden are the network namespaces that no backend enters.
func (n *Node) forbidden() ([]netns.ID, error) {
	if !n.Policy.DenyHostNetwork {
		return nil, nil
	}
	return hostNamespaces()
}

// serve serves until ctx ends or a component fails.
func (n *Node) serve(c *components, p *proxy, d *dataPath, s *sockets) error {
	server := newServer(p.handle)
	c.onClose(server.Stop)
	serving, stop := context.WithCancel(context.Background()) // calls may finish after ctx has ended
	c.onClose(stop)
	c.tasks.Go(func() { p.upstream.keepConnected(serving) })
	c.tasks.Go(func() { d.answerMetrics(serving) })
	c.run("data path", func() error { return d.run(serving) })
	if !d.awaitFirst(c.ctx) {
		return c.failure()
	}
	// The kubelet's socket is the last, so that nobody finds half a node behind it.
	listener, err := listenEndpoint(n.Listen)
	if err != nil {
		return err
	}
	c.run("CRI", func() error { return server.Serve(nonblock.Listener{Listener: listener}) })
	if n.Ready != nil {
		addresses := s.addresses()
		addresses.CRI = listener.path
		n.Ready(addresses)
	}
	<-c.ctx.Done()
	if n.Stopping != nil {
		n.Stopping()
	}
	drain(server)
	return c.failure()
}

// drain takes no more calls, and lets those under way finish, if they are quick.
func drain(server *grpc.Server) {
	cut := time.AfterFunc(drainTime, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
}
