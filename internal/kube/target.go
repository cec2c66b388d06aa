package kube

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// resolvedTarget is what a target's name stands for in the cluster.
type resolvedTarget struct {
	name     string // as the user wrote it, such as deploy/web
	resource resource
	service  atomic.Pointer[corev1.Service] // as it is now, or was before it was deleted; nil for other resources
	deleted  atomic.Bool                    // the service was deleted
	idle     atomic.Bool                    // it is scaled to 0 replicas
}

// resolve asks the server what the target is. Errors: those of Cluster, and
// *ResourceError, *NotFoundError, *SelectorError.
func (r *Route) resolve(ctx context.Context) (*resolvedTarget, error) {
	found, err := r.Cluster.findResource(ctx, r.Target.Resource)
	if err != nil {
		return nil, err
	}
	t := &resolvedTarget{name: r.Target.String(), resource: found}
	if found.GroupVersionResource != serviceResource() {
		return t, nil
	}
	ctx, cancel := r.Cluster.foreground(ctx)
	defer cancel()
	service := new(corev1.Service)
	if err := r.Cluster.get(ctx, serviceResource(), r.Namespace, r.Target.Name, service); err != nil {
		return nil, r.notFound(ctx, err)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, &SelectorError{Service: t.name, ExternalName: service.Spec.ExternalName}
	}
	t.service.Store(service)
	return t, nil
}

// notFound turns Kubernetes' error that the target does not exist into a
// *NotFoundError, with similar names. It returns other errors as they are.
func (r *Route) notFound(ctx context.Context, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	e := &NotFoundError{Target: r.Target.String(), Namespace: r.Namespace}
	if e.Similar, e.NoNamespace = r.Cluster.similarNamespaces(ctx, r.Namespace); !e.NoNamespace {
		e.Similar = r.Cluster.similarTargets(ctx, r.Namespace, r.Target)
	}
	return e
}

// policy is how connections are distributed over the target's pods.
func (t *resolvedTarget) policy(pin bool) (p policy, expiry time.Duration) {
	service := t.service.Load()
	switch {
	case pin:
		return pinned, 0
	case service == nil:
		return sticky, 0
	case affinityTime(service) > 0:
		return sticky, affinityTime(service)
	}
	return roundRobin, 0
}

// isPod says whether the target is one pod, named by the user.
func (t *resolvedTarget) isPod() bool { return t.resource.GroupVersionResource == podResource() }

// follow begins to keep r.pods up to date, and returns once it is. A service's pods
// are read from its EndpointSlices, or found by its selector if the user may not see
// those; of other targets, by the target's name or selector.
func (r *Route) follow(ctx context.Context) error {
	service := r.resolved.service.Load()
	pods := &follower[*corev1.Pod]{
		resource: podResource(), list: new(corev1.PodList), single: new(corev1.Pod), query: r.podQuery,
		update: func(pods []*corev1.Pod) {
			r.pods.set(endpointsFromPods(pods, r.resolved.isPod(), r.resolved.service.Load()))
		},
	}
	if service == nil {
		return r.notFound(ctx, startFollower(ctx, r, pods))
	}
	err := startFollower(ctx, r, &follower[*discoveryv1.EndpointSlice]{
		resource: sliceResource(), list: new(discoveryv1.EndpointSliceList), single: new(discoveryv1.EndpointSlice),
		query: func(context.Context) (query, error) {
			return query{labels: discoveryv1.LabelServiceName + "=" + r.Target.Name}, nil
		},
		update: func(all []*discoveryv1.EndpointSlice) { r.pods.set(endpointsFromSlices(r.Namespace, all)) },
	})
	selects := len(service.Spec.Selector) > 0
	if errors.Is(err, ErrForbidden) && selects {
		r.Log.Info("not allowed to see the service's endpoints, going by its pods", "err", err)
		pods.requery = r.reselect
		if startFollower(ctx, r, pods) == nil {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if all, _, _ := r.pods.current(); len(all) == 0 && !selects {
		return &SelectorError{Service: r.resolved.name}
	}
	r.followService()
	return nil
}

// podQuery asks for the target's pods by its name, if it is one, or else by its
// selector, which may have changed since it was read last.
func (r *Route) podQuery(ctx context.Context) (query, error) {
	if r.resolved.isPod() {
		return query{name: r.Target.Name}, nil
	}
	if service := r.resolved.service.Load(); service != nil {
		return query{labels: serviceSelector(service)}, nil
	}
	labels, replicas, err := r.Cluster.podSelector(ctx, r.resolved.resource, r.Namespace, r.Target.Name)
	r.resolved.idle.Store(err == nil && replicas == 0)
	return query{labels: labels}, err
}

// startFollower has a follower of r.pods read once, and then run until Close.
// Errors are those of Cluster; that a single object does not exist is none.
func startFollower[T object](ctx context.Context, r *Route, f *follower[T]) error {
	f.cluster, f.namespace, f.log, f.failed = r.Cluster, r.Namespace, r.Log, r.pods.fail
	ctx, cancel := r.Cluster.foreground(ctx)
	defer cancel()
	if err := f.read(ctx); err != nil {
		return err
	}
	r.work.Go(func() { f.run(r.life) })
	return nil
}

// followService begins to keep up with the service itself, which resolve has read.
// If that fails, what is known of the pods may still be up to date.
func (r *Route) followService() {
	f := &follower[*corev1.Service]{
		cluster: r.Cluster, namespace: r.Namespace, log: r.Log,
		resource: serviceResource(), list: new(corev1.ServiceList), single: new(corev1.Service),
		query:  func(context.Context) (query, error) { return query{name: r.Target.Name}, nil },
		update: r.serviceChanged,
		failed: func(error) {},
	}
	r.work.Go(func() {
		if err := f.renew(r.life); err != nil {
			r.Log.Debug("look at the service again", "err", err)
		}
		f.run(r.life)
	})
}

// serviceChanged notes the service as it is now. While it is deleted its ports stay
// known, since it may be created again.
func (r *Route) serviceChanged(all []*corev1.Service) {
	r.resolved.deleted.Store(len(all) == 0)
	if len(all) == 0 {
		return
	}
	before, now := r.resolved.service.Swap(all[0]), all[0]
	r.learnNames(now)
	r.balancer.set(r.resolved.policy(r.Pin))
	if serviceSelector(before) != serviceSelector(now) || before.Spec.PublishNotReadyAddresses != now.Spec.PublishNotReadyAddresses {
		select {
		case r.reselect <- struct{}{}:
		default:
		}
	}
	r.pods.notify()
}
