package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

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

// dataPathParts are what the data path is made of while it runs. Those that are not
// wanted are nil.
type dataPathParts struct {
	log       *slog.Logger
	upstream  *upstream
	server    *portforward.Server
	streaming *web
	metrics   *web
	events    *events
	told      net.Listener // of events
	control   *onlyListener
	rpc       *grpc.Server
}

// RunDataPath is what the command of Node.DataPath has to run: it carries the
// forwards until ctx, or the parent, ends. Log is as in Node.
func RunDataPath(ctx context.Context, log *slog.Logger) error {
	n := &Node{Log: log}
	if err := json.NewDecoder(os.Stdin).Decode(n); err != nil {
		return fmt.Errorf("data path: read settings: %w", err)
	}
	nameProcess("porthole-data")
	giveWay()
	unprioritize()
	limitHeap(n.Memory)
	p := &dataPathParts{log: n.logger()}
	defer p.close()
	if err := n.openDataPath(p); err != nil {
		return fmt.Errorf("data path: %w", err)
	}
	return p.serve(ctx)
}

// nameProcess is for those who look at processes by their short names.
func nameProcess(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }

// giveWay has the kernel end this process before its parent when memory is short,
// and no later than an ordinary program (oom_score_adj of proc(5)).
func giveWay() {
	const path, later, most = "/proc/self/oom_score_adj", 100, 1000
	text, err := os.ReadFile(path)
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return
	}
	score = min(max(score+later, 0), most)
	_ = os.WriteFile(path, []byte(strconv.Itoa(score)), 0)
}

// limitHeap has the garbage collector work harder as the heap nears what the forwards
// may hold: chunks that are half full at worst, and 128 MiB for all else. GOMEMLIMIT
// in the environment says otherwise.
func limitHeap(memory int) {
	if os.Getenv("GOMEMLIMIT") == "" && memory > 0 {
		debug.SetMemoryLimit(2*int64(memory) + 128<<20)
	}
}

func (n *Node) openDataPath(p *dataPathParts) (err error) {
	path, err := socketPath(n.Upstream)
	if err != nil {
		return err
	}
	// It is the parent that tells of the runtime's coming and going.
	if p.upstream, err = newUpstream(path, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	p.server = &portforward.Server{Memory: n.Memory, MaxTunnels: n.MaxTunnels, MaxPodTunnels: n.MaxPodTunnels, Log: p.log}
	if p.streaming, err = inheritWeb(streamingFD, p.server, p.log); err != nil {
		return err
	}
	forbidden, err := n.forbidden()
	if err != nil {
		return err
	}
	counts, above := newForwardMetrics(), newParentCounts()
	counts.registry.MustRegister(loadMetrics(p.server.Load)...)
	if err := n.openTold(p, counts.handler(above)); err != nil {
		return err
	}
	f := &forwards{
		upstream: p.upstream,
		resolver: resolver{cri: runtime.NewRuntimeServiceClient(p.upstream.conn), elsewhere: n.PassThrough},
		backend:  newBackend(n.Backend, forbidden, p.log), policy: n.Policy, server: p.server, url: "http://" + p.streaming.addr(),
		metrics: counts, events: p.events, log: p.log,
	}
	if path, err := socketPath(n.Docker); err == nil {
		f.resolver.docker = newDocker(path)
	}
	p.rpc = newServer(dataPathCalls(f, above))
	control, err := inherit(controlFD, net.FileConn)
	if err != nil {
		return err
	}
	p.control = listenOnly(control)
	return nil
}

// dataPathCalls are what the parent may call.
func dataPathCalls(f *forwards, above *parentCounts) grpc.StreamHandler {
	return func(_ any, down grpc.ServerStream) error {
		switch method, _ := grpc.MethodFromServerStream(down); method {
		case runtime.RuntimeService_PortForward_FullMethodName:
			return f.answer(down)
		case countsMethod:
			return above.ask(down)
		}
		return status.Error(codes.Unimplemented, "not a call of the data path")
	}
}

// openTold opens what tells of the forwards.
func (n *Node) openTold(p *dataPathParts, page http.Handler) (err error) {
	p.events = newEvents(p.log)
	if n.Events != "" {
		if p.told, err = inherit(eventsFD, net.FileListener); err != nil {
			return err
		}
	}
	if n.Metrics != "" {
		p.metrics, err = inheritWeb(metricsFD, page, p.log)
	}
	return err
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

func inheritWeb(fd uintptr, handler http.Handler, log *slog.Logger) (*web, error) {
	l, err := inherit(fd, net.FileListener)
	if err != nil {
		return nil, err
	}
	return newWeb(l, handler, log), nil
}

// serve runs the parts until ctx ends, the parent has hung up, or one of them fails.
// On return all of them have ended.
func (p *dataPathParts) serve(ctx context.Context) error {
	running := newTasks(ctx)
	following, unfollow := context.WithCancel(context.Background())
	defer func() {
		running.stop(nil)
		unfollow()
		p.close()
		running.work.Wait()
	}()
	running.work.Go(func() { p.upstream.follow(following) })
	running.run("streaming", p.streaming.serve)
	if p.metrics != nil {
		running.run("metrics", p.metrics.serve)
	}
	if p.told != nil {
		running.work.Go(func() { p.events.serve(p.told) })
	}
	running.work.Go(func() {
		_ = p.rpc.Serve(unannouncedListener{p.control}) // which ends with the parent
		running.stop(context.Canceled)
	})
	<-running.ctx.Done()
	return running.failure()
}

// close ends all parts that there are. More than once is fine.
func (p *dataPathParts) close() {
	if p.rpc != nil {
		p.rpc.Stop()
	}
	if p.control != nil {
		_ = p.control.Close()
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

// onlyListener is a listener with one connection, which ends with that.
type onlyListener struct {
	conn   net.Conn
	once   sync.Once
	closed chan struct{}
	taken  bool // by Accept, which is called by one goroutine
}

func listenOnly(c net.Conn) *onlyListener { return &onlyListener{conn: c, closed: make(chan struct{})} }

// Accept returns the connection, and the second time net.ErrClosed when that is closed.
func (l *onlyListener) Accept() (net.Conn, error) {
	if !l.taken {
		l.taken = true
		return onlyConn{l.conn, l}, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *onlyListener) Addr() net.Addr { return l.conn.LocalAddr() }

// Close closes the connection as well.
func (l *onlyListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.conn.Close()
}

// onlyConn closes its listener with itself.
type onlyConn struct {
	net.Conn
	listener *onlyListener
}

func (c onlyConn) Close() error { return c.listener.Close() }
