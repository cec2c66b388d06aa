package kube

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// object is what a target stands for in the cluster.
type object struct {
	name     string // as the user wrote it, such as deploy/web
	resource resource
	service  atomic.Pointer[corev1.Service] // as it is now, or was before it was deleted; nil for other resources
	deleted  atomic.Bool                    // the service was deleted
	idle     atomic.Bool                    // it is scaled to 0 replicas
}

// resolve finds out what the target is, and fails if that cannot have the wanted ports.
// Errors: those of Cluster, and *ResourceError, *NotFoundError, *SelectorError,
// *PortError.
func (r *Route) resolve(ctx context.Context) error {
	found, err := r.Cluster.findResource(ctx, r.Target.Resource)
	if err != nil {
		return err
	}
	r.object = &object{name: r.Target.String(), resource: found}
	if found.GroupVersionResource == serviceResource() {
		ctx, cancel := r.Cluster.foreground(ctx)
		defer cancel()
		service := new(corev1.Service)
		if err := r.Cluster.get(ctx, serviceResource(), r.Namespace, r.Target.Name, service); err != nil {
			return r.notFound(ctx, err)
		}
		if service.Spec.Type == corev1.ServiceTypeExternalName {
			return &SelectorError{Service: r.name(), ExternalName: service.Spec.ExternalName}
		}
		r.object.service.Store(service)
	}
	r.balancer = newBalancer(r.object.policy(r.Pin))
	return r.want(r.Want)
}

// notFound is Cluster.notFound for the target.
func (r *Route) notFound(ctx context.Context, err error) error {
	return r.Cluster.notFound(ctx, r.Namespace, r.Target, err)
}

// policy is how connections are distributed over the target's pods.
func (o *object) policy(pin bool) (p policy, expiry time.Duration) {
	service := o.service.Load()
	switch {
	case pin:
		return pinnedToPod, 0
	case service == nil:
		return sticky, 0
	case affinityTime(service) > 0:
		return sticky, affinityTime(service)
	}
	return roundRobin, 0
}

// isPod says whether the target is one pod, named by the user.
func (o *object) isPod() bool { return o.resource.GroupVersionResource == podResource() }

func (o *object) isStatefulSet() bool {
	return o.resource.GroupVersionResource == apps("statefulsets")
}

// takesUnready says whether pods take connections that are not ready: one that the user
// named, and each pod of a StatefulSet, which stands for itself.
func (r *Route) takesUnready() bool { return r.object.isPod() || r.each && r.object.isStatefulSet() }

// name is what messages call what the Route leads to.
func (r *Route) name() string {
	if r.pod != "" {
		return "pod/" + r.pod
	}
	return r.object.name
}

// follow begins to keep r.pods up to date, and returns once it is. A service's pods
// are read from its EndpointSlices, or found by its selector if the user may not see
// those; of other targets, by the target's name or selector.
func (r *Route) follow(ctx context.Context) error {
	pods := &follower[*corev1.Pod]{
		route: r, resource: podResource(), list: new(corev1.PodList), single: new(corev1.Pod), query: r.podQuery,
		update: func(all []*corev1.Pod) { r.pods.set(endpointsFromPods(all, r.takesUnready(), r.object.service.Load())) },
		failed: r.pods.fail,
	}
	service := r.object.service.Load()
	if service == nil {
		if err := pods.read(ctx); err != nil {
			return r.notFound(ctx, err)
		}
		r.work.Go(pods.run)
		return nil
	}
	endpoints := &follower[*discoveryv1.EndpointSlice]{
		route: r, resource: sliceResource(), list: new(discoveryv1.EndpointSliceList), single: new(discoveryv1.EndpointSlice),
		asked:  query{labels: discoveryv1.LabelServiceName + "=" + r.Target.Name},
		update: func(all []*discoveryv1.EndpointSlice) { r.pods.set(endpointsFromSlices(r.Namespace, all)) },
		failed: r.pods.fail,
	}
	run, err := endpoints.run, endpoints.read(ctx)
	selects := len(service.Spec.Selector) > 0
	if errors.Is(err, ErrForbidden) && selects {
		r.Log.Info("not allowed to see the service's endpoints, going by its pods", "err", err)
		pods.requery = r.reselect
		if pods.read(ctx) == nil {
			run, err = pods.run, nil
		}
	}
	if err != nil {
		return err
	}
	r.work.Go(run)
	if all, _, _ := r.pods.current(); len(all) == 0 && !selects {
		return &SelectorError{Service: r.name()}
	}
	r.followService()
	return nil
}

// podQuery asks for the target's pods by its name, if it is one, or else by its
// selector, which may have changed since it was read last: the service's, or that of
// an object of any other type, from its scale or from itself.
// Errors: those of Cluster, and *ResourceError.
func (r *Route) podQuery(ctx context.Context) (query, error) {
	o, name := r.object, r.Target.Name
	if o.isPod() {
		return query{name: name}, nil
	}
	if service := o.service.Load(); service != nil {
		return query{labels: serviceSelector(service)}, nil
	}
	if o.resource.scale {
		labels, replicas, err := r.Cluster.scaleSelector(ctx, o.resource, r.Namespace, name)
		if err != nil || labels != "" {
			o.idle.Store(err == nil && replicas == 0)
			return query{labels: labels}, err
		}
	}
	var w workload
	err := r.Cluster.get(ctx, o.resource.GroupVersionResource, r.Namespace, name, &w)
	labels := parseSelector(w.Spec.Selector)
	if err == nil && labels == "" {
		err = &ResourceError{Resource: o.resource.Resource, Kind: ErrNoPods}
	}
	o.idle.Store(err == nil && valueOr(w.Spec.Replicas, 1) == 0)
	return query{labels: labels}, err
}

// followService begins to keep up with the service itself, which resolve has read.
// If that fails, what is known of the pods may still be up to date.
func (r *Route) followService() {
	f := &follower[*corev1.Service]{
		route: r, resource: serviceResource(), list: new(corev1.ServiceList), single: new(corev1.Service),
		asked: query{name: r.Target.Name}, update: r.serviceChanged, failed: func(error) {},
	}
	r.work.Go(func() {
		if err := f.renew(r.life); err != nil {
			r.Log.Debug("look at the service again", "err", err)
		}
		f.run()
	})
}

// serviceChanged notes the service as it is now. While it is deleted its ports stay
// known, since it may be created again.
func (r *Route) serviceChanged(all []*corev1.Service) {
	r.object.deleted.Store(len(all) == 0)
	if len(all) == 0 {
		return
	}
	before, now := r.object.service.Swap(all[0]), all[0]
	r.learnNames(now)
	r.balancer.set(r.object.policy(r.Pin))
	if serviceSelector(before) != serviceSelector(now) || before.Spec.PublishNotReadyAddresses != now.Spec.PublishNotReadyAddresses {
		select {
		case r.reselect <- struct{}{}:
		default:
		}
	}
	r.pods.notify()
}
