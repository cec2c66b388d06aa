package kube

import (
	"context"
	"errors"
	"sync"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Opener opens Routes for forwards whose targets are in the clusters of a kubeconfig.
// Those of the same context and namespace share a Cluster. Set the fields, and call
// Close after the last of its Routes is closed.
type Opener struct {
	Config *Config
	// The others are those of each Route.
	MaxWait           time.Duration
	PodRunningTimeout time.Duration
	MaxTunnels        int
	Silence           time.Duration
	Agents            *Agents

	mu       sync.Mutex
	clusters map[[2]string]*Cluster // by context and namespace
	relays   map[*Cluster]*relay
}

// Open is a route.Opener. Errors: those of package kube.
func (o *Opener) Open(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	if f.Target.Scheme == target.RemoteHost {
		return o.openHost(ctx, f, events)
	}
	cluster, err := o.cluster(f.Context, f.Namespace)
	if err != nil {
		return nil, err
	}
	if f.Via == target.ViaRelay {
		return o.openRelayed(ctx, cluster, f, events)
	}
	opened, err := open(ctx, o.route(cluster, f, events), f)
	if errors.Is(err, ErrNoSelector) && f.Via == target.ViaAuto && !f.Reverse && o.Agents != nil {
		return o.openRelayed(ctx, cluster, f, events)
	}
	return opened, err
}

// route returns the Route to a forward's target, not open yet.
func (o *Opener) route(cluster *Cluster, f target.Forward, events func(route.Event)) *Route {
	want := f.Ports
	if f.Reverse { // they are this machine's
		want = nil
	}
	return &Route{
		Cluster: cluster, Target: f.Target, Want: want, Pin: f.Pin, MaxWait: o.MaxWait, PodRunningTimeout: o.PodRunningTimeout,
		MaxTunnels: o.MaxTunnels, Silence: o.Silence, SPDYOnly: SPDYOnly(), KeepWebSocket: KeepWebSocket(), Events: events,
		Via: f.Via, Container: f.Container, Agents: o.Agents,
	}
}

// open opens a Route, and looks up the forward's ports.
func open(ctx context.Context, r *Route, f target.Forward) (*route.Result, error) {
	if err := r.Open(ctx); err != nil {
		return nil, err
	}
	if f.Reverse {
		return &route.Result{Route: r, Ports: f.Ports, Bind: r.Bind}, nil
	}
	ports, err := r.Ports(f.Ports)
	if err == nil {
		err = r.prepare(ctx, ports)
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return &route.Result{Route: r, Ports: ports, PodPort: r.PodPort}, nil
}

func (o *Opener) cluster(context, namespace string) (*Cluster, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := [2]string{context, namespace}
	if c := o.clusters[key]; c != nil {
		return c, nil
	}
	c, err := Open(o.Config.In(context, namespace))
	if err != nil {
		return nil, err
	}
	if o.clusters == nil {
		o.clusters = map[[2]string]*Cluster{}
	}
	o.clusters[key] = c
	return c, nil
}

// Close closes the Clusters and the tunnels to relays, which end by themselves.
func (o *Opener) Close() {
	for _, r := range o.relays {
		r.tunnel.shared.Close()
	}
	for _, c := range o.clusters {
		c.Close()
	}
}
