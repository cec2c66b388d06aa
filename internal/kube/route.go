// Package kube is a route to pods through a Kubernetes API server: it finds the
// pods that a target stands for, keeps up with them and keeps tunnels to them warm.
// It must not know what listens locally, and prints nothing.
package kube

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Route leads to the pods of one target. Set the fields, call Open, then Ports for
// what is to be forwarded, and Close in the end. After Open all methods are safe
// to call at the same time.
//
// Connections to a service are spread over its ready pods, unless its session
// affinity has them stay with one. All others go to one pod until it is not ready
// any more, and then to another.
type Route struct {
	// Cluster is where the target is. It outlives the Route.
	Cluster *Cluster
	// Target has the scheme target.Kubernetes.
	Target target.Target
	// Namespace is the target's; "" means the Cluster's.
	Namespace string
	// Want are the ports that Ports will be called for, if they are known already:
	// Open waits for a pod that has one of them.
	Want []target.Port
	// MaxWait is how long a connection waits while no pod can be reached;
	// 0 means 30 s.
	MaxWait time.Duration
	// PodRunningTimeout is how long Open waits for a pod; 0 means 1 min.
	PodRunningTimeout time.Duration
	// Pin has all connections stay with one pod for as long as it is there,
	// ready or not, a service's too.
	Pin bool
	// MaxTunnels, Silence, SPDYOnly and KeepWebSocket are portforward.Client's, for
	// each pod.
	MaxTunnels    int
	Silence       time.Duration
	SPDYOnly      bool
	KeepWebSocket bool
	// Events is told what becomes of the route, one call at a time, until
	// Close returns. nil is for nobody.
	Events func(route.Event)
	// Log gets what explains the Route's behaviour; nil is for nobody.
	Log *slog.Logger

	resolved *resolvedTarget
	pods     *podState
	balancer *balancer
	tunnels  *tunnels
	suspect  chan struct{} // asks keep to see whether the route is still there
	// reselect says that the service selects other pods.
	reselect chan struct{}

	troubled bool // the last event was not that the route is Ready

	portless time.Time // since when keep has found no pod that has a port, though some are ready; or zero

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex
	asked map[uint16]portRef // by the numbers that Ports gave out
	asks  []portRef          // that connections will be for
	names map[portRef]string // what a service called the port of a number last

	reasons reasons
}

const (
	defaultWait              = 30 * time.Second
	defaultPodRunningTimeout = time.Minute
	// attemptLimit is how long one pod is tried before another is.
	attemptLimit = 10 * time.Second
)

// Open finds the target, waits until one of its pods is ready, and opens a tunnel
// to it; ctx is for that alone. It fails early where waiting makes no sense.
// Errors: all of this package; after one the Route is closed.
func (r *Route) Open(ctx context.Context) error {
	r.init()
	err := r.open(ctx)
	if err != nil {
		_ = r.Close()
	}
	return err
}

func (r *Route) init() {
	r.Namespace = cmp.Or(r.Namespace, r.Cluster.Namespace)
	r.MaxWait = cmp.Or(r.MaxWait, defaultWait)
	r.PodRunningTimeout = cmp.Or(r.PodRunningTimeout, defaultPodRunningTimeout)
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	r.pods = newPodState()
	r.tunnels = &tunnels{client: r.client, clients: map[types.UID]podClient{}}
	r.suspect = make(chan struct{}, 1)
	r.reselect = make(chan struct{}, 1)
	r.asked, r.names = map[uint16]portRef{}, map[portRef]string{}
	r.life, r.end = context.WithCancel(context.Background())
}

func (r *Route) open(ctx context.Context) (err error) {
	if r.resolved, err = r.find(ctx); err != nil {
		return err
	}
	r.balancer = newBalancer(r.resolved.policy(r.Pin))
	if err := r.ask(r.Want); err != nil {
		return err
	}
	if err := r.follow(ctx); err != nil {
		return err
	}
	if err := r.await(ctx); err != nil {
		return err
	}
	pod, err := r.first(ctx)
	if err != nil {
		return err
	}
	r.emit(route.Event{Kind: route.Ready, Pod: pod})
	r.work.Go(func() { r.keep(pod) })
	r.work.Go(r.sweep)
	return nil
}

// first opens the first tunnel. Where a node refuses, other pods are tried.
func (r *Route) first(ctx context.Context) (pod string, err error) {
	tried := map[types.UID]bool{}
	for {
		likely := r.probable(1)
		if err != nil && (len(likely) == 0 || tried[likely[0].uid]) {
			return "", err
		}
		if len(likely) > 0 {
			tried[likely[0].uid] = true
		}
		if pod, err = r.connect(ctx); err == nil {
			return pod, nil
		}
	}
}

// Close ends the Route and everything of it; connections that live are reset. It
// may be called more than once.
func (r *Route) Close() error {
	if r.end == nil {
		return nil
	}
	r.end()
	r.tunnels.close()
	r.work.Wait()
	return nil
}

// client makes what connects to one pod.
func (r *Route) client(pod string) *portforward.Client {
	return &portforward.Client{
		URL:           r.Cluster.portForwardURL(r.Namespace, pod),
		Transport:     r.Cluster.tunnels,
		SPDYOnly:      r.SPDYOnly,
		KeepWebSocket: r.KeepWebSocket,
		Ways:          &r.Cluster.ways,
		MaxTunnels:    r.MaxTunnels,
		Silence:       r.Silence,
		Again:         r.Cluster.again(),
		Log:           r.Log.With("pod", pod),
	}
}

// Wait waits for ctx: a route to pods is never gone for good, because pods come back.
func (r *Route) Wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// emit tells the route's owner. Only Open and keep call it, one after the other.
func (r *Route) emit(e route.Event) {
	r.Log.Debug("route", "target", r.resolved.name, "kind", e.Kind, "pod", e.Pod, "err", e.Err)
	e.Again, r.troubled = r.troubled && e.Kind == route.Ready, e.Kind != route.Ready
	if r.Events != nil {
		r.Events(e)
	}
}

// Dial opens a connection to a TCP port of the target, a service's or a pod's. While
// no pod can be reached it waits, at most for r.MaxWait, and then returns a
// *WaitError. Other errors: *PortError, *portforward.PortError, net.ErrClosed
// after Close, the context's.
func (r *Route) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	port, err := to.TCPOnly()
	if err != nil {
		return nil, err
	}
	conn, err := (&call{route: r, port: port}).run(ctx)
	if err != nil {
		return nil, err
	}
	return r.reopen(conn, port), nil
}
