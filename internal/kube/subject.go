package kube

import (
	"context"
	"sync/atomic"

	"errors"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// subject is what a target turned out to be.
type subject struct {
	name     string // as it was named, such as deploy/web
	resource resource
	service  *corev1.Service // or nil
	ports    ports           // of the service
	idle     atomic.Bool     // it is meant to have no pods
}

// find asks the server what the target is. Errors: those of Cluster, and
// *ResourceError, *NotFoundError, ErrNoSelector.
func (r *Route) find(ctx context.Context) (*subject, error) {
	found, err := r.Cluster.lookUp(ctx, r.Target.Resource)
	if err != nil {
		return nil, err
	}
	s := &subject{name: r.Target.String(), resource: found}
	if found.GroupVersionResource != serviceResource() {
		return s, nil
	}
	ctx, cancel := r.Cluster.foreground(ctx)
	defer cancel()
	s.service = new(corev1.Service)
	if err := r.Cluster.get(ctx, serviceResource(), r.Namespace, r.Target.Name, s.service); err != nil {
		return nil, r.missing(ctx, err)
	}
	if len(s.service.Spec.Selector) == 0 || s.service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, &SelectorError{Service: s.name, ExternalName: s.service.Spec.ExternalName}
	}
	s.ports = servicePorts(s.service)
	return s, nil
}

// missing turns Kubernetes' word that the target does not exist into this package's.
func (r *Route) missing(ctx context.Context, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	e := &NotFoundError{Target: r.Target.String(), Namespace: r.Namespace}
	if e.Like, e.NoNamespace = r.Cluster.likeNamespace(ctx, r.Namespace); !e.NoNamespace {
		e.Like = r.Cluster.like(ctx, r.Namespace, r.Target)
	}
	return e
}

// choice is how connections are distributed over the subject's pods.
func (s *subject) choice(pinned bool) *choice {
	switch {
	case pinned:
		return &choice{policy: pin}
	case s.service == nil:
		return &choice{policy: stay}
	case affinity(s.service) > 0:
		return &choice{policy: stay, expiry: affinity(s.service)}
	}
	return &choice{policy: spread}
}

// portName is what pods call a service's port; false if a number is the same
// everywhere.
func (s *subject) portName(number uint16) (string, bool) {
	if s.service == nil || headless(s.service) {
		return "", false
	}
	for _, p := range s.ports {
		if p.number == number && p.protocol == corev1.ProtocolTCP {
			return p.name, true
		}
	}
	return "", false
}

// isPod says whether the target is one pod by its name.
func (s *subject) isPod() bool { return s.resource.GroupVersionResource == podResource() }

// follow begins to keep the board up to date, and returns once it is.
func (r *Route) follow(ctx context.Context) error {
	if r.subject.service == nil {
		return r.missing(ctx, begin(ctx, r, r.podFollower(r.podQuery)))
	}
	query := func(context.Context) (query, error) {
		return query{labels: discoveryv1.LabelServiceName + "=" + r.Target.Name}, nil
	}
	err := begin(ctx, r, &follower[*discoveryv1.EndpointSlice]{
		resource: sliceResource(),
		list:     func() runtime.Object { return new(discoveryv1.EndpointSliceList) },
		single:   func() *discoveryv1.EndpointSlice { return new(discoveryv1.EndpointSlice) },
		query:    query,
		update:   func(all []*discoveryv1.EndpointSlice) { r.board.set(fromSlices(all)) },
	})
	if !errors.Is(err, ErrForbidden) {
		return err
	}
	r.Log.Info("not allowed to see the service's endpoints, going by its pods", "err", err)
	if begin(ctx, r, r.podFollower(r.servicePodQuery)) == nil {
		return nil
	}
	return err
}

// begin completes a follower, has it look once and lets it run.
func begin[T object](ctx context.Context, r *Route, f *follower[T]) error {
	f.cluster, f.namespace, f.log, f.failed = r.Cluster, r.Namespace, r.Log, r.board.fail
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
		update:   func(pods []*corev1.Pod) { r.board.set(r.fromPods(pods)) },
	}
}

func (r *Route) fromPods(pods []*corev1.Pod) []endpoint {
	if r.subject.service != nil {
		return fromServicePods(r.subject.service, pods)
	}
	return fromPods(pods, r.subject.isPod())
}

// podQuery asks for the pods of the target, whose labels may be others by now.
func (r *Route) podQuery(ctx context.Context) (query, error) {
	if r.subject.isPod() {
		return query{name: r.Target.Name}, nil
	}
	labels, replicas, err := r.Cluster.selector(ctx, r.subject.resource, r.Namespace, r.Target.Name)
	r.subject.idle.Store(err == nil && replicas == 0)
	return query{labels: labels}, err
}

func (r *Route) servicePodQuery(context.Context) (query, error) {
	return query{labels: serviceSelector(r.subject.service)}, nil
}
