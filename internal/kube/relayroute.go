package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// relaySlow is how long a relay may take to start before a line says what it waits for. Usually it takes 2 s.
const relaySlow = 4 * time.Second

// relayRoute leads to a target through a relay of its namespace.
type relayRoute struct {
	relay *relay
	name  string // of the target, for messages
	// address returns what a connection is made to from the relay.
	address func(ctx context.Context, to target.Address) (target.Address, error)
	maxWait time.Duration
	events  func(route.Event)
	told    string // the pod of the relay that was told last

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup
}

// open starts the relay if there is none, and keeps a tunnel to it from then on.
func (r *relayRoute) open(ctx context.Context) error {
	r.life, r.end = context.WithCancel(context.Background())
	slow := time.AfterFunc(relaySlow, func() {
		if why := r.relay.waitsFor(); why != nil {
			r.events(route.Event{Kind: route.Waiting, Err: why})
		}
	})
	client, err := r.relay.tunnel.shared.Client(ctx)
	slow.Stop()
	if err != nil {
		r.end()
		return err
	}
	r.tell()
	r.events(route.Event{Kind: route.Ready})
	r.work.Go(func() { r.keep(client) })
	return nil
}

// tell tells, once for each relay, that connections go through it.
func (r *relayRoute) tell() {
	relay := r.relay.last()
	if relay.pod == r.told {
		return
	}
	r.told = relay.pod
	e := route.Event{Kind: route.Carried, Via: target.ViaRelay, Pod: relay.pod, Found: relay.found, Err: relay.unread}
	if relay.version != r.relay.agents.Version {
		e.Version = relay.version
	}
	r.events(e)
}

// keep opens the tunnel anew whenever it is lost, until the route is closed.
func (r *relayRoute) keep(client *tunnel.Client) {
	for {
		select {
		case <-client.Done():
		case <-r.life.Done():
			return
		}
		var err error
		if client, err = route.Reopen(r.life, client.Err(), r.events, r.relay.tunnel.shared.Client); err != nil {
			return
		}
		r.tell()
		r.events(route.Event{Kind: route.Ready, Again: true})
	}
}

// Dial implements route.Dialer. While there is no tunnel to a relay it waits for one, at most for
// maxWait, and then returns a *WaitError.
func (r *relayRoute) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, r.maxWait)
	defer cancel()
	var pause backoff.Backoff
	var why error
	for {
		conn, err := r.dial(limited, to)
		if err == nil || isFinal(err) {
			return conn, err
		}
		if limited.Err() == nil || why == nil {
			why = err // and not that the last attempt was cut short
		}
		switch {
		case r.life.Err() != nil:
			return nil, fmt.Errorf("%s: %w", r.name, net.ErrClosed)
		case errors.Is(ctx.Err(), context.Canceled):
			return nil, context.Cause(ctx)
		case limited.Err() != nil:
			return nil, &WaitError{Waited: time.Since(began).Round(100 * time.Millisecond), Err: why}
		}
		backoff.Sleep(limited, pause.Next(firstPause, maxPause), nil)
	}
}

// dial makes one attempt.
func (r *relayRoute) dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	there, err := r.address(ctx, to)
	if err != nil {
		return nil, err
	}
	client, err := r.relay.tunnel.shared.Client(ctx)
	if err != nil {
		return nil, err
	}
	return client.Dial(there)
}

// Wait implements route.Route: what is behind a relay is never gone for good.
func (r *relayRoute) Wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Close implements route.Route. The relay's tunnel is the Opener's.
func (r *relayRoute) Close() error {
	r.end()
	r.work.Wait()
	return nil
}

// openRelay opens a route to what address says, with ports that are numbered.
func (o *Opener) openRelay(ctx context.Context, f target.Forward, ports []target.Port, events func(route.Event),
	address func(context.Context, target.Address) (target.Address, error)) (*route.Result, error) {
	relay, err := o.relay(f.Context, f.Namespace)
	if err != nil {
		return nil, err
	}
	r := &relayRoute{relay: relay, name: f.String(), address: address, maxWait: cmp.Or(o.MaxWait, defaultWait), events: events}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return &route.Result{Route: r, Ports: ports}, nil
}

// openHost opens a route to a host that the cluster reaches.
func (o *Opener) openHost(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
	return o.openRelay(ctx, f, f.Ports, events, func(_ context.Context, to target.Address) (target.Address, error) {
		to.Host = f.Target.Name
		return to, nil
	})
}

// relay returns the relay of a context and namespace.
func (o *Opener) relay(context, namespace string) (*relay, error) {
	cluster, err := o.cluster(context, namespace)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.relays[cluster]; r != nil {
		return r, nil
	}
	r := &relay{cluster: cluster, namespace: cluster.Namespace, agents: o.Agents, limit: cmp.Or(o.PodRunningTimeout, defaultPodRunningTimeout)}
	r.tunnel = agentTunnel{reach: r.reach, config: o.Agents, silence: agentSilence(o.Silence),
		greeted: func(version string) { r.set(func() { r.running.version = version }) }}
	r.tunnel.init()
	if o.relays == nil {
		o.relays = map[*Cluster]*relay{}
	}
	o.relays[cluster] = r
	return r, nil
}
