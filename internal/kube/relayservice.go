package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// ErrRelayTarget means that a relay does not lead to something.
var ErrRelayTarget = errors.New("a relay leads to ports of services, pods and hosts")

// relayTargetTime is how long an answer about a service or pod is used. A connection that comes later asks
// again, since the object may have been edited or replaced.
const relayTargetTime = time.Second

// relayTarget is a service or a pod that connections go to through a relay.
type relayTarget struct {
	cluster *Cluster
	target  target.Target
	pod     bool
	refs    map[target.Address]portRef // what was asked for, by the numbers that ports gave out

	known cache[struct{}, relayTargetState]
}

// relayTargetState is where a service or pod is now.
type relayTargetState struct {
	host       string
	declared   ports
	undeclared bool                // numbers are taken too that nothing declares
	number     func(p port) uint16 // that a declared port has at host
	err        error
}

// openRelayed opens a route to a service or a pod through a relay.
func (o *Opener) openRelayed(ctx context.Context, cluster *Cluster, f target.Forward, events func(route.Event)) (*route.Result, error) {
	r := &relayTarget{cluster: cluster, target: f.Target, refs: map[target.Address]portRef{}}
	switch found, _ := builtin(f.Target.Resource); found {
	case serviceResource():
	case podResource():
		r.pod = true
	default:
		return nil, fmt.Errorf("%s: %w", f.Target, ErrRelayTarget)
	}
	ports, err := r.ports(ctx, f.Ports)
	if err != nil {
		return nil, err
	}
	return o.openRelay(ctx, f, ports, events, r.address)
}

// ports fills in the numbers of ports that have names, and checks all of them.
// Errors: *PortError, ErrRelayTarget, and those of the service or pod.
func (r *relayTarget) ports(ctx context.Context, given []target.Port) ([]target.Port, error) {
	now := r.look(ctx)
	if now.err != nil {
		return nil, now.err
	}
	all := slices.Clone(given)
	for i := range all {
		ref := refTo(all[i])
		if ref == (portRef{}) {
			return nil, fmt.Errorf("%s of %s: %w", all[i].To().Named(), r.target, ErrRelayTarget)
		}
		number, err := now.declared.numberOf(ref, r.target.String(), now.undeclared)
		if err != nil {
			return nil, err
		}
		if all[i].Remote = number; all[i].Same {
			all[i].Local = number
		}
		r.refs[all[i].To()] = ref
	}
	return all, nil
}

// address is relayRoute's: where a connection goes now.
func (r *relayTarget) address(ctx context.Context, to target.Address) (target.Address, error) {
	now := r.look(ctx)
	if now.err != nil {
		return to, now.err
	}
	ref := r.refs[to]
	number, err := now.declared.numberOf(ref, r.target.String(), now.undeclared)
	if err != nil {
		return to, err
	}
	to.Host, to.Port = now.host, number
	if p, ok := now.declared.of(ref.protocol()).find(ref); ok && now.number != nil {
		to.Port = now.number(p)
	}
	return to, nil
}

// look returns where the service or pod is. Many connections that come at once share an answer.
func (r *relayTarget) look(ctx context.Context) relayTargetState {
	return r.known.get(struct{}{}, func() (time.Duration, relayTargetState) {
		var now relayTargetState
		if r.pod {
			now = r.lookAtPod(ctx)
		} else {
			now = r.lookAtService(ctx)
		}
		if now.err != nil {
			return 0, now
		}
		return relayTargetTime, now
	})
}

// lookAtService returns where clients in the cluster connect to for a service: its address, so that its own
// load balancing counts; for a headless one its name, which stands for the addresses of its endpoints
// and takes no right to read those; for an ExternalName the name that it has.
func (r *relayTarget) lookAtService(ctx context.Context) relayTargetState {
	var service corev1.Service
	if err := r.cluster.get(ctx, serviceResource(), r.cluster.Namespace, r.target.Name, &service); err != nil {
		return relayTargetState{err: r.cluster.notFound(ctx, r.cluster.Namespace, r.target, err)}
	}
	now := relayTargetState{declared: servicePorts(&service)}
	switch {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		now.host, now.undeclared = service.Spec.ExternalName, true
	case isHeadless(&service):
		now.host, now.undeclared = fmt.Sprintf("%s.%s.svc", service.Name, service.Namespace), true
		now.number = func(p port) uint16 {
			if at := p.target.IntVal; at != 0 { // there is no address that would translate it
				return uint16(at)
			}
			return p.number
		}
	default:
		now.host = service.Spec.ClusterIP
	}
	return now
}

// lookAtPod returns a pod's address.
func (r *relayTarget) lookAtPod(ctx context.Context) relayTargetState {
	var pod corev1.Pod
	if err := r.cluster.get(ctx, podResource(), r.cluster.Namespace, r.target.Name, &pod); err != nil {
		return relayTargetState{err: r.cluster.notFound(ctx, r.cluster.Namespace, r.target, err)}
	}
	if status, ok := readiness(&pod, true); !ok || net.ParseIP(pod.Status.PodIP) == nil {
		return relayTargetState{err: &NotReadyError{Target: r.target.String(), Namespace: pod.Namespace, Pods: []PodStatus{status}}}
	}
	return relayTargetState{host: pod.Status.PodIP, declared: podPorts(pod.Spec.Containers, pod.Spec.InitContainers), undeclared: true}
}

// notFound turns Kubernetes' error that a target does not exist into a *NotFoundError, with similar
// names. It returns other errors as they are.
func (c *Cluster) notFound(ctx context.Context, namespace string, to target.Target, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	e := &NotFoundError{Target: to.String(), Namespace: namespace}
	if e.Similar, e.NoNamespace = c.similarNamespaces(ctx, namespace); !e.NoNamespace {
		e.Similar = c.similarTargets(ctx, namespace, to)
	}
	return e
}
