package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"

	"porthole.dev/porthole/internal/netns"
)

// drainTime is how long calls have to finish when the node ends. The kubelet makes
// those that are cut short again.
const drainTime = 500 * time.Millisecond

// parts are what a Node is made of while it runs. Those that are not wanted are nil.
// What carries the forwards is in the data path, a process of its own, so that they
// do not delay the kubelet's calls.
type parts struct {
	log      *slog.Logger
	upstream *upstream
	dataPath *dataPath
	sockets  sockets
	cri      *grpc.Server
}

// Run serves until ctx ends, which is no error. Forwards end with it; pods and the
// runtime do not notice. The errors are this package's, and netns.ErrPermission.
func (n *Node) Run(ctx context.Context) error {
	p := &parts{log: n.logger()}
	defer func() { p.close(); p.dataPath.release() }()
	if err := n.Check(); err != nil {
		return err
	}
	if err := n.open(p); err != nil {
		return err
	}
	return n.serve(ctx, p)
}

func (n *Node) logger() *slog.Logger {
	if n.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return n.Log
}

func call(ready func(Addresses), a Addresses) {
	if ready != nil {
		ready(a)
	}
}

// open makes all parts but the kubelet's socket.
func (n *Node) open(p *parts) (err error) {
	if err := mayEnter(); err != nil {
		return err
	}
	if _, err := n.forbidden(); err != nil { // which the data path needs
		return err
	}
	if err := n.openUpstream(p); err != nil {
		return err
	}
	if err := p.sockets.open(n); err != nil {
		return err
	}
	methods := criMethods()
	counts := newProxyMetrics(n.Version, methods, p.upstream.up)
	if p.dataPath, err = newDataPath(n, &p.sockets, counts.registry); err != nil {
		return err
	}
	p.cri = newServer((&proxy{upstream: p.upstream, dataPath: &p.dataPath.upstream, observe: counts.request, methods: methods, keepURLs: n.KeepURLs}).handle)
	return nil
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

func openSocket(endpoint string) (*socket, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	return listenSocket(path)
}

func (p *parts) addresses(cri string) Addresses {
	a := p.sockets.addresses()
	a.CRI = cri
	return a
}

// serve runs the parts until ctx ends or one of them fails. On return all of them
// have ended.
func (n *Node) serve(ctx context.Context, p *parts) error {
	running := newTasks(ctx)
	following, unfollow := context.WithCancel(context.Background())
	defer func() {
		running.stop(nil)
		unfollow()
		p.close()
		running.work.Wait()
	}()
	running.work.Go(func() { p.upstream.follow(following) })
	running.work.Go(func() { p.dataPath.answerCounts(following) })
	running.run("data path", func() error { return p.dataPath.run(following) })
	if !p.dataPath.awaitFirst(running.ctx) {
		return running.failure()
	}
	// The kubelet's socket is the last, so that nobody finds half a node behind it.
	listener, err := openSocket(n.Listen)
	if err != nil {
		return err
	}
	running.run("CRI", func() error { return p.cri.Serve(unannouncedListener{listener}) })
	call(n.Ready, p.addresses(listener.path))
	<-running.ctx.Done()
	if n.Stopping != nil {
		n.Stopping()
	}
	p.drain()
	return running.failure()
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
	if p.dataPath != nil {
		_ = p.dataPath.conn.Close()
	}
	p.sockets.close()
	if p.upstream != nil {
		_ = p.upstream.conn.Close()
	}
}

// tasks are what runs at the same time, until its context ends or one of them fails.
type tasks struct {
	ctx  context.Context
	stop context.CancelCauseFunc
	work sync.WaitGroup
}

func newTasks(ctx context.Context) *tasks {
	t := &tasks{}
	t.ctx, t.stop = context.WithCancelCause(ctx)
	return t
}

// run runs a task, whose failure ends the others.
func (t *tasks) run(what string, serve func() error) {
	t.work.Go(func() {
		if err := serve(); err != nil && !ended(err) {
			t.stop(fmt.Errorf("serve %s: %w", what, err))
		}
	})
}

// failure is the error of the one that failed first, once ctx has ended.
func (t *tasks) failure() error {
	if err := context.Cause(t.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// ended says whether a server's error is only that it was ended.
func ended(err error) bool {
	return errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped)
}
