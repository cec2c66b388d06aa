// Package kube is a route to pods through a Kubernetes API server: it finds the
// pods that a target stands for, follows their changes and keeps tunnels to them open.
// It must not know what listens locally, and prints nothing.
package kube

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Route leads to the pods of one target. Set the fields, call Open, then Ports for
// what is to be forwarded, and Close in the end. After Open all methods are safe
// to call at the same time.
//
// Connections to a service are spread over its ready pods, unless its session
// affinity keeps them with one. All others go to one pod until it is no longer ready,
// and then to another.
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
	// Pin keeps all connections with one pod for as long as it exists, ready or not,
	// even those to a service.
	Pin bool
	// Via is what carries the connections to Want, as target.Forward.CheckVia allows it: a relay leads to no
	// pods, and is none of a Route's. Container is the container of each pod whose Unix sockets
	// are meant; "" is the only one.
	Via       target.Via
	Container string
	// Agents says what agents run; with nil none is started.
	Agents *Agents
	// MaxTunnels, Silence, SPDYOnly and KeepWebSocket are portforward.Client's, for
	// each pod.
	MaxTunnels    int
	Silence       time.Duration
	SPDYOnly      bool
	KeepWebSocket bool
	// Events is called when the state of the route changes, one call at a time, until
	// Close returns. nil drops events.
	Events func(route.Event)
	// Log gets what explains the Route's behaviour; nil drops it.
	Log *slog.Logger

	each  bool   // the Route is the whole of others
	whole *Route // the Route to all pods, which this one is to one pod of; nil for others
	pod   string // that one

	object   *object
	pods     *podState
	balancer *balancer
	tunnels  *tunnels
	byNode   sync.Once     // tells that a node carries connections
	recheck  chan struct{} // asks the monitor to look whether the route still works
	reselect chan struct{} // signals that the service selects other pods

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup

	session string // the token by which a later tunnel takes over what was listened on

	mu        sync.Mutex
	listenPod types.UID                  // the pod that is listened at; "" for none
	refs      map[target.Address]portRef // what was asked for, by the numbers that Ports gave out
	wanted    []portRef                  // that connections will be for
	lastNames map[portRef]string         // that the service last had for ports wanted by number

	diagnoses cache[portRef, error]

	telling  sync.Mutex // held while Events is called
	troubled bool       // the last event of the route's state was not Ready
}

const (
	defaultWait              = 30 * time.Second
	defaultPodRunningTimeout = time.Minute
	// attemptLimit is how long one pod is tried before another is.
	attemptLimit = 10 * time.Second
	// waitingAfter is how long Open waits for a pod before it emits Waiting.
	waitingAfter = time.Second
)

// Open finds the target, waits until one of its pods is ready, and opens a tunnel
// to it; ctx ends that, and not the Route. It fails early if waiting makes no sense.
// Errors: all of this package; after one the Route is closed.
func (r *Route) Open(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()
	if err = r.find(ctx); err != nil {
		return err
	}
	if err = r.awaitPod(ctx); err != nil {
		return err
	}
	r.beginAgent()
	monitor := &monitor{route: r, up: true}
	for tried := map[types.UID]bool{}; ; { // if a node refuses, other pods are tried
		likely := r.likely(1)
		if err != nil && (len(likely) == 0 || tried[likely[0].uid]) {
			return err
		}
		if len(likely) > 0 {
			tried[likely[0].uid] = true
		}
		if monitor.pod, err = r.warmPods(ctx, nil); err == nil {
			break
		}
	}
	r.emit(route.Event{Kind: route.Ready, Pod: monitor.pod})
	r.work.Go(monitor.run)
	r.work.Go(r.sweep)
	return nil
}

// find finds the target, and begins to follow its pods.
func (r *Route) find(ctx context.Context) error {
	r.init()
	if r.whole != nil {
		return r.join()
	}
	if err := r.resolve(ctx); err != nil {
		return err
	}
	return r.follow(ctx)
}

func (r *Route) init() {
	r.Namespace = cmp.Or(r.Namespace, r.Cluster.Namespace)
	r.MaxWait = cmp.Or(r.MaxWait, defaultWait)
	r.PodRunningTimeout = cmp.Or(r.PodRunningTimeout, defaultPodRunningTimeout)
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	r.pods, r.session = newPodState(), tunnel.NewSession()
	r.tunnels = &tunnels{route: r, clients: map[clientKey]podClient{}, agents: map[types.UID]*podAgent{}}
	r.recheck, r.reselect = make(chan struct{}, 1), make(chan struct{}, 1)
	r.refs, r.lastNames = map[target.Address]portRef{}, map[portRef]string{}
	r.life, r.end = context.WithCancel(context.Background())
}

// awaitPod waits until a pod is ready that has one of the wanted ports, or it is
// clear that none will be.
func (r *Route) awaitPod(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.PodRunningTimeout)
	defer cancel()
	tick := time.NewTicker(waitingAfter)
	defer tick.Stop()
	waiting, began := time.After(waitingAfter), time.Now()
	for {
		all, changed, _ := r.pods.current()
		if len(r.likely(1)) > 0 {
			return nil
		}
		if r.object.isPod() && len(all) == 0 {
			return r.notFound(ctx, apierrors.NewNotFound(podResource().GroupResource(), r.Target.Name))
		}
		var why error // of the first port that some pod has
		for _, ref := range r.wantedPorts() {
			if why = r.diagnose(ctx, ref); !errors.Is(why, ErrNoPort) {
				break
			}
		}
		if r.isPermanent(why, time.Since(began)) {
			return why
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-waiting:
			r.emit(route.Event{Kind: route.Waiting, Err: why})
		case <-limited.Done():
			return cmp.Or(context.Cause(ctx), why)
		}
	}
}

// Close ends the Route and resets its connections. When it returns nothing of the
// Route runs any more. It may be called more than once.
func (r *Route) Close() error {
	if r.end == nil {
		return nil
	}
	r.end()
	r.tunnels.close()
	r.work.Wait()
	return nil
}

// Wait waits for ctx: a route to pods is never gone for good, because pods come back.
func (r *Route) Wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// emit hands an event to the route's owner.
func (r *Route) emit(e route.Event) {
	r.Log.Debug("route", "target", r.name(), "kind", e.Kind, "pod", e.Pod, "err", e.Err)
	r.telling.Lock()
	defer r.telling.Unlock()
	if e.Kind != route.Carried {
		e.Again, r.troubled = r.troubled && e.Kind == route.Ready, e.Kind != route.Ready
	}
	if r.Events != nil {
		r.Events(e)
	}
}
