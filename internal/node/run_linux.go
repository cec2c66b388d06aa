package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/portforward"
)

// drainTime is how long calls have to finish when the node ends. The kubelet makes
// those that are cut short again.
const drainTime = 500 * time.Millisecond

// parts are what a Node is made of while it runs. Those that are not wanted are nil.
type parts struct {
	log       *slog.Logger
	upstream  *upstream
	server    *portforward.Server
	streaming *web
	metrics   *web
	events    *events
	told      *socket // of events
	listener  *socket // of the CRI
	cri       *grpc.Server
}

// Run serves until ctx ends, which is no error. Forwards end with it; pods and the
// runtime do not notice. The errors are this package's, and netns.ErrPermission.
func (n *Node) Run(ctx context.Context) error {
	p := &parts{log: n.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	defer p.close()
	if err := n.Check(); err != nil {
		return err
	}
	if err := n.open(p); err != nil {
		return err
	}
	return p.serve(ctx, func() { call(n.Ready, p.addresses()) }, n.Stopping)
}

func call(ready func(Addresses), a Addresses) {
	if ready != nil {
		ready(a)
	}
}

// open makes all parts. The kubelet's socket is the last, so that nobody finds half
// a node behind it.
func (n *Node) open(p *parts) (err error) {
	if err := mayEnter(); err != nil {
		return err
	}
	if err := n.openUpstream(p); err != nil {
		return err
	}
	p.server = &portforward.Server{Log: p.log}
	if err := n.openStreaming(p); err != nil {
		return err
	}
	forbidden, err := n.forbidden()
	if err != nil {
		return err
	}
	methods := criMethods()
	counts := newMetrics(n.Version, methods, p.upstream.up)
	if err := n.openTold(p, counts); err != nil {
		return err
	}
	f := &forwards{
		resolver: resolver{cri: runtime.NewRuntimeServiceClient(p.upstream.conn)},
		backend:  newBackend(n.Backend, forbidden, p.log), policy: n.Policy, server: p.server, url: "http://" + p.streaming.addr(),
		metrics: counts, events: p.events, log: p.log,
	}
	if path, err := socketPath(n.Docker); err == nil {
		f.resolver.docker = newDocker(path)
	}
	p.cri = (&proxy{upstream: p.upstream, portForward: f.portForward, observe: counts.request, methods: methods}).server()
	p.listener, err = openSocket(n.Listen)
	return err
}

// forbidden are the network namespaces that no backend enters.
func (n *Node) forbidden() ([]netns.ID, error) {
	if !n.Policy.DenyHostNetwork {
		return nil, nil
	}
	return hostNamespaces()
}

// mayEnter tells early of a permission that every forward would lack.
func mayEnter() error {
	ns, err := netns.OpenPath(nodeNamespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Check()
}

func (n *Node) openUpstream(p *parts) error {
	path, err := socketPath(n.Upstream)
	if err != nil {
		return err
	}
	if listen, _ := socketPath(n.Listen); listen == path {
		return fmt.Errorf("listen on %s: the runtime's own: %w", path, ErrInUse)
	}
	p.upstream, err = newUpstream(path, p.log)
	return err
}

func (n *Node) openStreaming(p *parts) (err error) {
	p.streaming, err = listenWeb(cmp.Or(n.Streaming, defaultStreaming), p.server, p.log)
	return err
}

// openTold opens what tells of the forwards.
func (n *Node) openTold(p *parts, counts *metrics) (err error) {
	p.events = newEvents(p.log)
	if n.Events != "" {
		if p.told, err = openSocket(n.Events); err != nil {
			return err
		}
	}
	if n.Metrics != "" {
		p.metrics, err = listenWeb(n.Metrics, counts.handler(), p.log)
	}
	return err
}

func openSocket(endpoint string) (*socket, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	return listenSocket(path)
}

func (p *parts) addresses() Addresses {
	a := Addresses{CRI: p.listener.path, Streaming: p.streaming.addr()}
	if p.metrics != nil {
		a.Metrics = p.metrics.addr()
	}
	if p.told != nil {
		a.Events = p.told.path
	}
	return a
}

// serve runs the parts until ctx ends or one of them fails. On return all of them
// have ended.
func (p *parts) serve(ctx context.Context, ready, stopping func()) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var work sync.WaitGroup
	run := func(what string, serve func() error) {
		work.Go(func() {
			if err := serve(); err != nil && !ended(err) {
				stop(fmt.Errorf("serve %s: %w", what, err))
			}
		})
	}
	following, unfollow := context.WithCancel(context.Background())
	work.Go(func() { p.upstream.follow(following) })
	run("streaming", p.streaming.serve)
	if p.metrics != nil {
		run("metrics", p.metrics.serve)
	}
	if p.told != nil {
		work.Go(func() { p.events.serve(p.told) })
	}
	run("CRI", func() error { return p.cri.Serve(p.listener) })
	ready()
	<-ctx.Done()
	if stopping != nil {
		stopping()
	}
	p.drain()
	unfollow()
	p.close()
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// ended says whether a server's error is only that it was ended.
func ended(err error) bool {
	return errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped)
}

// drain takes no more calls, and lets those under way finish, if they are quick.
func (p *parts) drain() {
	cut := time.AfterFunc(drainTime, p.cri.Stop)
	defer cut.Stop()
	p.cri.GracefulStop()
}

// close ends all parts that there are. More than once is fine.
func (p *parts) close() {
	if p.cri != nil {
		p.cri.Stop()
	}
	if p.listener != nil {
		_ = p.listener.Close()
	}
	for _, w := range []*web{p.streaming, p.metrics} {
		if w != nil {
			_ = w.Close()
			_ = w.listener.Close() // if it was never served
		}
	}
	if p.server != nil {
		_ = p.server.Close()
	}
	if p.told != nil {
		_ = p.told.Close()
	}
	if p.events != nil {
		p.events.close()
	}
	if p.upstream != nil {
		_ = p.upstream.conn.Close()
	}
}
