package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
)

// route leads to a target until it is closed.
type route interface {
	forward.Dialer
	// Wait returns when the target is gone for good, with the reason, or
	// when ctx ends.
	Wait(ctx context.Context) error
	Close() error
}

// opener opens routes. Those of one `porthole forward` share what they have in
// common, a cluster's API server for one.
type opener struct {
	options *forwarding
	tell    *teller
	ready   *readyFile
	ending  *ending

	mu       sync.Mutex
	clusters map[[2]string]*kube.Cluster // by context and namespace
}

func newOpener(f *forwarding, tell *teller) *opener {
	return &opener{options: f, tell: tell, clusters: map[[2]string]*kube.Cluster{}}
}

// close lets go of what routes share, after the last of them is closed.
func (o *opener) close() {
	for _, c := range o.clusters {
		c.Close()
	}
}

// opened is a route that can be used, and what its opening brought to light.
type opened struct {
	route route
	ports []target.Port // all of them numbered
	ready forward.Event // to be told once there are listeners
	// podPort is the pod's port that a service's stands for; nil where they are the same.
	podPort func(port uint16) (uint16, error)
}

// open opens the route to a target.
func (o *opener) open(ctx context.Context, s spec) (*opened, error) {
	if s.Target.Scheme == target.Kubernetes {
		return o.openKubernetes(ctx, s)
	}
	ns, err := container.Open(s.Target)
	if err != nil {
		return nil, err
	}
	return &opened{route: ns, ports: s.Ports, ready: forward.Event{Kind: forward.Ready, Target: s.name}}, nil
}

func (o *opener) openKubernetes(ctx context.Context, s spec) (*opened, error) {
	cluster, err := o.cluster(s.Context, s.Namespace)
	if err != nil {
		return nil, err
	}
	var first opened
	lost := false
	events := func(e kube.Event) { // one call at a time
		told := routeEvent(s.name, e)
		told.Again, lost = lost && e.Kind == kube.Ready, e.Kind != kube.Ready
		if e.Kind == kube.Ready && first.ready.Kind == "" {
			first.ready = told // within Open: nobody listens yet
			return
		}
		o.tell.event(told)
	}
	r := kubeRoute{&kube.Route{
		Cluster: cluster, Target: s.Target, Want: s.Ports, Pin: s.Pin || o.options.pin,
		Wait: o.options.wait, PodRunningTimeout: o.options.podRunning,
		MaxTunnels: o.options.maxTunnels, Silence: cmp.Or(o.options.silence, -1), SPDYOnly: kube.SPDYOnly(), KeepWebSocket: kube.KeepWebSocket(),
		Events: events,
	}}
	keepToOneProcessor()
	if err := r.Open(ctx); err != nil {
		return nil, kubectlWords(err)
	}
	first.route, first.podPort = r, r.PodPort
	if first.ports, err = r.Ports(s.Ports); err != nil {
		_ = r.Close()
		return nil, err
	}
	return &first, nil
}

// kubectlWords puts the words before an error that scripts written for kubectl look for.
func kubectlWords(err error) error {
	var status *portforward.StatusError
	var forbidden *kube.ForbiddenError
	switch {
	case errors.As(err, &status), errors.As(err, &forbidden) && forbidden.Resource == "pods/portforward":
		return fmt.Errorf("error upgrading connection: %w", err)
	case errors.Is(err, kube.ErrNotReady):
		return fmt.Errorf("unable to forward: %w", err)
	}
	return err
}

func (o *opener) cluster(context, namespace string) (*kube.Cluster, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := [2]string{context, namespace}
	if c := o.clusters[key]; c != nil {
		return c, nil
	}
	c, err := kube.Open(o.options.config.In(context, namespace))
	if err == nil {
		o.clusters[key] = c
	}
	return c, err
}

// kubeRoute is a route that is never gone for good: pods come back.
type kubeRoute struct{ *kube.Route }

// Wait waits for ctx.
func (kubeRoute) Wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func routeEvent(name string, e kube.Event) forward.Event {
	kinds := map[kube.Kind]forward.Kind{
		kube.Waiting: forward.Waiting, kube.Ready: forward.Ready, kube.Reconnecting: forward.Reconnecting,
	}
	return forward.Event{Kind: kinds[e.Kind], Target: name, Pod: e.Pod, Err: e.Err}
}

// keepToOneProcessor is for both ends of tunnels, where API server and kubelet bound
// what can come. With more processors the goroutines of a tunnel, of its connections
// and of a call to the runtime wake each other up across them for every piece, which
// takes more than the pieces do; docs/performance.md has the figures. GOMAXPROCS in the
// environment overrides it.
func keepToOneProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}
