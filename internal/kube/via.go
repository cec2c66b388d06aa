package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// onlyNodes is an address, of any number, by which a node is asked whether it runs porthole: stock Kubernetes
// does not carry it.
var onlyNodes = target.Address{Network: target.UDP, Port: 9}

// agentSlow is how long an agent may take to start before a line says what it waits for.
const agentSlow = 3 * time.Second

// choose says what carries connections to an address of a pod: the stock protocol, porthole on
// the node that client leads to, or an agent. Errors: target.ErrUnsupported where the node is to
// carry them and cannot, and those of opening a tunnel.
func (r *Route) choose(ctx context.Context, client *portforward.Client, to target.Address) (target.Via, error) {
	_, beyondStock := to.TCPOnly()
	switch {
	case r.Via == target.ViaAgent && r.Agents != nil:
		return target.ViaAgent, nil
	case r.Via == target.ViaStock, r.Via == target.ViaAuto && beyondStock == nil:
		return target.ViaStock, nil
	case r.Via == target.ViaAuto && r.onlyAgents(to):
		return target.ViaAgent, nil
	}
	err := client.Carries(ctx, onlyNodes)
	if errors.Is(err, target.ErrUnsupported) && r.Via == target.ViaAuto && r.Agents != nil {
		return target.ViaAgent, nil
	}
	if err == nil {
		r.byNode.Do(func() { r.emit(route.Event{Kind: route.Carried, Via: target.ViaNode, Remote: to}) })
	}
	return target.ViaNode, err
}

// beginAgent begins to look for the agent of the pod that connections are likely to go to, or to
// start it, if it is sure that they go through one. It does not wait.
func (r *Route) beginAgent() {
	sure := func(p target.Port) bool {
		return r.Via == target.ViaAgent || r.Via == target.ViaAuto && r.onlyAgents(p.To())
	}
	if !slices.ContainsFunc(r.Want, sure) {
		return
	}
	for _, e := range r.likely(1) {
		if a := r.tunnels.agent(e); a != nil {
			r.work.Go(func() { _, _ = a.tunnel.shared.Client(r.life) }) // prepare gets its error
		}
	}
}

// onlyAgents says whether no node carries connections to an address: nodes are no relays, and
// choose the container of a socket themselves.
func (r *Route) onlyAgents(to target.Address) bool {
	return r.Agents != nil && (to.Host != "" || to.Network == target.Unix && r.Container != "")
}

// prepare has whatever carries connections to the ports ready at the pod that they go to now, and
// returns why there can be none. Dial would return the same for each connection.
func (r *Route) prepare(ctx context.Context, ports []target.Port) error {
	for _, p := range ports {
		to := p.To()
		for _, e := range r.likely(1) {
			client := r.tunnels.to(e, useOf(to.Network))
			if client == nil {
				continue
			}
			via, err := r.choose(ctx, client, to)
			if err == nil && via == target.ViaAgent {
				err = r.startAgent(ctx, r.tunnels.agent(e), to)
			} else if !errors.Is(err, target.ErrUnsupported) {
				err = nil // of the tunnel, which is tried again
			}
			if err != nil {
				return r.connectError(ctx, e, &to, err)
			}
		}
	}
	return nil
}

// startAgent waits until a pod's agent runs, and tells what it waits for if that takes long.
func (r *Route) startAgent(ctx context.Context, a *podAgent, to target.Address) error {
	if a == nil { // the route is closed
		return net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, r.PodRunningTimeout)
	defer cancel()
	slow := time.AfterFunc(agentSlow, func() { r.emit(route.Event{Kind: route.Waiting, Err: a.waiting()}) })
	defer slow.Stop()
	_, err := a.start(ctx, to)
	return err
}

// connectError is why no connection could be made to an address of a pod, or no tunnel if that
// is nil. If the pod is the reason, the balancer avoids it for a while.
func (r *Route) connectError(ctx context.Context, e endpoint, to *target.Address, err error) error {
	status := refusal(err)
	if gone := status == http.StatusNotFound || apierrors.IsNotFound(err); gone || status >= http.StatusInternalServerError || errors.Is(err, context.DeadlineExceeded) {
		r.balancer.penalize(e.uid, gone) // before the monitor looks, so that it avoids the pod too
	}
	if to != nil {
		select { // the monitor looks whether the route still works
		case r.recheck <- struct{}{}:
		default:
		}
	}
	var agent *AgentError
	var container *ContainerError
	var forbidden *ForbiddenError
	switch {
	case errors.Is(err, net.ErrClosed), errors.As(err, &agent), errors.As(err, &container), errors.As(err, &forbidden): // of an agent
		return err
	case errors.Is(err, target.ErrUnsupported):
		return &NodeError{Pod: e.pod, To: *to}
	}
	return r.Cluster.requestError(ctx, err, portForwardTo(r.Namespace, e.pod))
}
