package kube

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

const (
	// diagnosisLimit is how long the search for reasons may take.
	diagnosisLimit = 2 * time.Second
	// diagnosisTime is for how long a reason that was found is used again.
	diagnosisTime = time.Second
	// maxDescribed is how many pods are asked for.
	maxDescribed = 20
	// settleTime is for how long a service and its EndpointSlices may disagree about
	// ports: they are changed one after the other.
	settleTime = 3 * time.Second
)

// unavailable says why no pod takes connections to a port, without asking the server:
// none is ready, or those that are do not have the port.
// Errors: *NotReadyError, *PortError.
func (r *Route) unavailable(all []endpoint, ref portRef) error {
	e := &NotReadyError{Target: r.name(), Namespace: r.Namespace}
	if slices.ContainsFunc(all, func(e endpoint) bool { return e.ready }) {
		candidates, err := r.candidates(all, ref)
		if err != nil {
			return err
		}
		if len(candidates) == 0 {
			i := slices.IndexFunc(all, func(e endpoint) bool { return len(e.startsLater) > 0 })
			if i < 0 {
				return r.noPort(all, ref)
			}
			e.Pods = []PodStatus{all[i].status}
			return e
		}
		all = candidates
	}
	for _, pod := range all {
		if !pod.ready {
			e.Pods = append(e.Pods, pod.status)
		}
	}
	switch {
	case r.pod != "":
		e.Reason = "does not exist at the moment"
	case r.object.isPod(), r.object.deleted.Load():
		e.Reason = "does not exist any more"
	case r.object.idle.Load():
		e.Reason = "is scaled to 0 replicas"
	}
	return e
}

// diagnose is unavailable with what the server adds to it, or the error that keeps the
// pods from being read.
func (r *Route) diagnose(ctx context.Context, ref portRef) error {
	all, _, err := r.pods.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, diagnosisLimit)
	defer cancel()
	err = r.unavailable(all, ref)
	var e *NotReadyError
	if !errors.As(err, &e) {
		return err
	}
	if service := r.object.service.Load(); service != nil {
		e.Pods = r.describePods(ctx, service, e.Pods)
	}
	if len(e.Pods) > 0 && ctx.Err() == nil {
		r.addWarning(ctx, &e.Pods[0])
	}
	return e
}

// isPermanent says whether what diagnose found, after some time of waiting, will not
// pass by itself.
func (r *Route) isPermanent(err error, waited time.Duration) bool {
	var e *NotReadyError
	switch {
	case errors.As(err, &e) && len(e.Pods) == 0:
		return r.object.idle.Load()
	case e != nil: // a pod that was deleted or has ended may be replaced
		return !slices.ContainsFunc(e.Pods, func(s PodStatus) bool { return !s.permanent })
	case errors.Is(err, ErrNoPort):
		return r.object.service.Load() == nil || waited > settleTime
	}
	return false
}

// describePods finds out why a service's pods are not ready, which its EndpointSlices
// do not tell. A user who may not see the pods gets known back.
func (r *Route) describePods(ctx context.Context, service *corev1.Service, known []PodStatus) (each []PodStatus) {
	if len(service.Spec.Selector) == 0 || r.pod != "" {
		return r.describeNamed(ctx, known)
	}
	var list corev1.PodList
	options := metav1.ListOptions{LabelSelector: serviceSelector(service), Limit: maxDescribed}
	if r.Cluster.list(ctx, podResource(), r.Namespace, options, &list) != nil {
		return known
	}
	for i := range list.Items {
		if status, ok := readiness(&list.Items[i], false); !ok {
			each = append(each, status)
		}
	}
	return each
}

// describeNamed is describePods by the pods' names: for a service without selector, and for one pod.
func (r *Route) describeNamed(ctx context.Context, known []PodStatus) (each []PodStatus) {
	for _, status := range known[:min(maxDescribed, len(known))] {
		var pod corev1.Pod
		switch err := r.Cluster.get(ctx, podResource(), r.Namespace, status.Name, &pod); {
		case errors.Is(err, ErrForbidden):
			return known
		case apierrors.IsNotFound(err):
			status.Status = "NotFound"
		case err == nil:
			if now, ok := readiness(&pod, false); !ok {
				status = now
			}
		}
		each = append(each, status)
	}
	return each
}

// warnings returns the cluster's warnings about an object, by fields of the events' involvedObject.
func (c *Cluster) warnings(ctx context.Context, namespace string, object fields.Set) ([]corev1.Event, error) {
	selector := fields.Set{"type": corev1.EventTypeWarning}
	for field, value := range object {
		selector["involvedObject."+field] = value
	}
	var list corev1.EventList
	err := c.list(ctx, corev1.SchemeGroupVersion.WithResource("events"), namespace, metav1.ListOptions{FieldSelector: selector.AsSelector().String()}, &list)
	return list.Items, err
}

// addWarning adds the cluster's last warning about a pod's state, such as that a
// volume is missing or a probe fails, if the pod's status itself says little.
func (r *Route) addWarning(ctx context.Context, s *PodStatus) {
	if !s.vague {
		return
	}
	events, err := r.Cluster.warnings(ctx, r.Namespace, fields.Set{"kind": "Pod", "name": s.Name})
	if err != nil {
		return
	}
	var last *corev1.Event
	for i := range events {
		e := &events[i]
		if e.Message != "" && s.concerns(e) && (last == nil || !lastSeen(e).Before(lastSeen(last))) {
			last = e
		}
	}
	if last != nil {
		s.Reason, s.Message = last.Reason, last.Message
	}
}

// concerns says whether an event is about the state s: not about an earlier pod of
// the same name, a container that is ready, or a step of the start that was made since.
func (s *PodStatus) concerns(e *corev1.Event) bool {
	if uid := e.InvolvedObject.UID; uid != "" && s.uid != "" && uid != s.uid {
		return false
	}
	_, container, found := strings.Cut(strings.TrimSuffix(e.InvolvedObject.FieldPath, "}"), "{")
	switch {
	case !found:
		return !lastSeen(e).Before(s.since)
	case s.Container != "":
		return container == s.Container
	}
	return s.waiting == nil || slices.Contains(s.waiting, container)
}

// lastSeen is when an event was seen last. Which field has it depends on the event's
// age and on who wrote it.
func lastSeen(e *corev1.Event) time.Time {
	times := []time.Time{e.LastTimestamp.Time, e.EventTime.Time, e.FirstTimestamp.Time}
	if e.Series != nil {
		times = append(times, e.Series.LastObservedTime.Time)
	}
	return slices.MaxFunc(times, time.Time.Compare)
}

// cache remembers answers for a while. Callers that ask while an answer is looked for
// wait for it. The zero value is ready to use.
type cache[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]cached[V]
}

type cached[V any] struct {
	value V
	until time.Time
}

// get returns the answer for a key, which find looks for if it is not known. find
// returns for how long its answer counts, and the answer.
func (c *cache[K, V]) get(key K, find func() (time.Duration, V)) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.known[key]; ok && time.Now().Before(known.until) {
		return known.value
	}
	keep, value := find()
	if c.known == nil {
		c.known = map[K]cached[V]{}
	}
	c.known[key] = cached[V]{value, time.Now().Add(keep)}
	return value
}
