package kube

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// subject is what a target turned out to be.
type resolvedTarget struct {
	name     string // as it was named, such as deploy/web
	resource resource
	service  atomic.Pointer[corev1.Service] // as it is now, or was before it was deleted; nil for other resources
	deleted  atomic.Bool                    // the service
	idle     atomic.Bool                    // it is meant to have no pods
}

// find asks the server what the target is. Errors: those of Cluster, and
// *ResourceError, *NotFoundError, *SelectorError.
func (r *Route) find(ctx context.Context) (*resolvedTarget, error) {
	found, err := r.Cluster.lookUp(ctx, r.Target.Resource)
	if err != nil {
		return nil, err
	}
	s := &resolvedTarget{name: r.Target.String(), resource: found}
	if found.GroupVersionResource != serviceResource() {
		return s, nil
	}
	ctx, cancel := r.Cluster.foreground(ctx)
	defer cancel()
	service := new(corev1.Service)
	if err := r.Cluster.get(ctx, serviceResource(), r.Namespace, r.Target.Name, service); err != nil {
		return nil, r.missing(ctx, err)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, &SelectorError{Service: s.name, ExternalName: service.Spec.ExternalName}
	}
	s.service.Store(service)
	return s, nil
}

// missing turns Kubernetes' word that the target does not exist into this package's.
func (r *Route) missing(ctx context.Context, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	e := &NotFoundError{Target: r.Target.String(), Namespace: r.Namespace}
	if e.Similar, e.NoNamespace = r.Cluster.likeNamespace(ctx, r.Namespace); !e.NoNamespace {
		e.Similar = r.Cluster.like(ctx, r.Namespace, r.Target)
	}
	return e
}

// policy is how connections are distributed over the subject's pods.
func (s *resolvedTarget) policy(pin bool) (p policy, expiry time.Duration) {
	service := s.service.Load()
	switch {
	case pin:
		return pinned, 0
	case service == nil:
		return sticky, 0
	case affinity(service) > 0:
		return sticky, affinity(service)
	}
	return roundRobin, 0
}

// isPod says whether the target is one pod by its name.
func (s *resolvedTarget) isPod() bool { return s.resource.GroupVersionResource == podResource() }

// follow begins to keep the board up to date, and returns once it is.
func (r *Route) follow(ctx context.Context) error {
	service := r.resolved.service.Load()
	if service == nil {
		return r.missing(ctx, begin(ctx, r, r.podFollower(r.podQuery)))
	}
	err := begin(ctx, r, &follower[*discoveryv1.EndpointSlice]{
		resource: sliceResource(),
		list:     func() runtime.Object { return new(discoveryv1.EndpointSliceList) },
		single:   func() *discoveryv1.EndpointSlice { return new(discoveryv1.EndpointSlice) },
		query:    r.sliceQuery,
		update:   func(all []*discoveryv1.EndpointSlice) { r.pods.set(fromSlices(r.Namespace, all)) },
	})
	selects := len(service.Spec.Selector) > 0
	if errors.Is(err, ErrForbidden) && selects {
		r.Log.Info("not allowed to see the service's endpoints, going by its pods", "err", err)
		pods := r.podFollower(r.servicePodQuery)
		pods.again = r.reselect
		if begin(ctx, r, pods) == nil {
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

func (r *Route) sliceQuery(context.Context) (query, error) {
	return query{labels: discoveryv1.LabelServiceName + "=" + r.Target.Name}, nil
}

// followService begins to keep up with the service itself, of which find has read
// the first state. That this fails is no reason to take what is known for old.
func (r *Route) followService() {
	f := &follower[*corev1.Service]{
		cluster: r.Cluster, namespace: r.Namespace, log: r.Log,
		resource: serviceResource(),
		list:     func() runtime.Object { return new(corev1.ServiceList) },
		single:   func() *corev1.Service { return new(corev1.Service) },
		query:    func(context.Context) (query, error) { return query{name: r.Target.Name}, nil },
		update:   r.serviceChanged,
		failed:   func(error) {},
	}
	r.work.Go(func() {
		if err := f.renew(r.life); err != nil {
			r.Log.Debug("look at the service again", "err", err)
		}
		f.run(r.life)
	})
}

// serviceChanged takes note of the service as it is now. Its ports stay known while it is
// deleted: it may be made anew.
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
	r.pods.wake()
}

// begin completes a follower, has it look once and lets it run.
func begin[T object](ctx context.Context, r *Route, f *follower[T]) error {
	f.cluster, f.namespace, f.log, f.failed = r.Cluster, r.Namespace, r.Log, r.pods.fail
	if err := f.start(ctx); err != nil {
		return err
	}
	r.work.Go(func() { f.run(r.life) })
	return nil
}

func (r *Route) podFollower(query func(context.Context) (query, error)) *follower[*corev1.Pod] {
	return &follower[*corev1.Pod]{
		resource: podResource(),
		list:     func() runtime.Object { return new(corev1.PodList) },
		single:   func() *corev1.Pod { return new(corev1.Pod) },
		query:    query,
		update:   func(pods []*corev1.Pod) { r.pods.set(r.fromPods(pods)) },
	}
}

func (r *Route) fromPods(pods []*corev1.Pod) []endpoint {
	if service := r.resolved.service.Load(); service != nil {
		return fromServicePods(service, pods)
	}
	return fromPods(pods, r.resolved.isPod())
}

// podQuery asks for the pods of the target, whose labels may be others by now.
func (r *Route) podQuery(ctx context.Context) (query, error) {
	if r.resolved.isPod() {
		return query{name: r.Target.Name}, nil
	}
	labels, replicas, err := r.Cluster.selector(ctx, r.resolved.resource, r.Namespace, r.Target.Name)
	r.resolved.idle.Store(err == nil && replicas == 0)
	return query{labels: labels}, err
}

func (r *Route) servicePodQuery(context.Context) (query, error) {
	return query{labels: serviceSelector(r.resolved.service.Load())}, nil
}
