package kube

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"porthole.dev/porthole/internal/route"
)

const (
	// tellAfter is how long Open waits before it tells that it does.
	tellAfter = time.Second
	// askLimit is how long the search for reasons may take.
	askLimit = 2 * time.Second
	// maxDescribed is how many pods it asks for.
	maxDescribed = 20
	// settleTime is for how long what a service and its pods say of its ports may
	// not fit together: they are changed one after the other.
	settleTime = 3 * time.Second
)

// await waits until a pod is ready that has one of the ports, or it is clear that
// none will be.
func (r *Route) await(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.PodRunningTimeout)
	defer cancel()
	tick := time.NewTicker(tellAfter)
	defer tick.Stop()
	tell, began := time.After(tellAfter), time.Now()
	for {
		all, changed, _ := r.pods.current()
		if len(r.probable(1)) > 0 {
			return nil
		}
		if r.resolved.isPod() && len(all) == 0 {
			return r.missing(ctx, apierrors.NewNotFound(podResource().GroupResource(), r.Target.Name))
		}
		why := r.whyNone(ctx)
		if r.vain(why, time.Since(began)) {
			return why
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-tell:
			r.emit(route.Event{Kind: route.Waiting, Err: why})
		case <-limited.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return why
		}
	}
}

// vain says whether what is in the way will not pass by itself.
func (r *Route) vain(err error, waited time.Duration) bool {
	var e *NotReadyError
	switch {
	case errors.As(err, &e):
		return len(e.Pods) == 0 && r.resolved.idle.Load() || allHopeless(e.Pods)
	case errors.Is(err, ErrNoPort):
		return r.resolved.service.Load() == nil || waited > settleTime
	}
	return false
}

// notReady says what is known of why no pod is ready.
func (r *Route) notReady(all []endpoint) *NotReadyError {
	e := &NotReadyError{Target: r.resolved.name, Namespace: r.Namespace, Pods: statuses(all)}
	switch {
	case r.resolved.isPod(), r.resolved.deleted.Load():
		e.Reason = "does not exist any more"
	case r.resolved.idle.Load():
		e.Reason = "is scaled to 0 replicas"
	}
	return e
}

// none says why there is no pod for a port: none is ready, or those that are do not
// have it. Errors: *NotReadyError, *PortError.
func (r *Route) none(all []endpoint, to portRef) error {
	if !anyReady(all) {
		return r.notReady(all)
	}
	having, err := r.having(all, to)
	switch {
	case err != nil:
		return err
	case len(having) > 0:
		return r.notReady(having)
	}
	for _, e := range all {
		if len(e.begins) > 0 {
			return &NotReadyError{Target: r.resolved.name, Namespace: r.Namespace, Pods: []PodStatus{e.status}}
		}
	}
	return r.noPort(all, to)
}

// whyNone is why for the first of the ports that a pod has, if one has.
func (r *Route) whyNone(ctx context.Context) (err error) {
	for _, a := range r.wanted() {
		if err = r.why(ctx, a); !errors.Is(err, ErrNoPort) {
			break
		}
	}
	return err
}

// why is none with all that can be found out, or why nothing can.
func (r *Route) why(ctx context.Context, to portRef) error {
	all, _, err := r.pods.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	err = r.none(all, to)
	var e *NotReadyError
	if !errors.As(err, &e) {
		return err
	}
	if r.resolved.service.Load() != nil {
		e.Pods = r.describe(ctx, e.Pods)
	}
	if len(e.Pods) > 0 && ctx.Err() == nil {
		r.warn(ctx, &e.Pods[0])
	}
	return e
}

// describe finds out why a service's pods are not ready, of which its endpoints
// do not tell. A user who may not see the pods learns no more than known.
func (r *Route) describe(ctx context.Context, known []PodStatus) []PodStatus {
	var list corev1.PodList
	service := r.resolved.service.Load()
	if len(service.Spec.Selector) == 0 {
		return r.describeEach(ctx, known)
	}
	options := metav1.ListOptions{LabelSelector: serviceSelector(service), Limit: maxDescribed}
	if r.Cluster.list(ctx, podResource(), r.Namespace, options, &list) != nil {
		return known
	}
	var each []PodStatus
	for i := range list.Items {
		if status, ok := judge(&list.Items[i], false); !ok {
			each = append(each, status)
		}
	}
	return each
}

// describeEach is describe by the pods' names.
func (r *Route) describeEach(ctx context.Context, known []PodStatus) (each []PodStatus) {
	for _, status := range known[:min(maxDescribed, len(known))] {
		var pod corev1.Pod
		switch err := r.Cluster.get(ctx, podResource(), r.Namespace, status.Name, &pod); {
		case errors.Is(err, ErrForbidden):
			return known
		case apierrors.IsNotFound(err):
			status.Status = "NotFound"
		case err == nil:
			if now, ok := judge(&pod, false); !ok {
				status = now
			}
		}
		each = append(each, status)
	}
	return each
}

// warn adds the cluster's last warning about a pod's state, such as that a volume is
// missing or a probe fails, where the pod's status itself tells little.
func (r *Route) warn(ctx context.Context, s *PodStatus) {
	if !s.vague {
		return
	}
	options := metav1.ListOptions{FieldSelector: fields.AndSelectors(
		fields.OneTermEqualSelector("involvedObject.kind", "Pod"),
		fields.OneTermEqualSelector("involvedObject.name", s.Name),
		fields.OneTermEqualSelector("type", corev1.EventTypeWarning)).String()}
	var list corev1.EventList
	events := corev1.SchemeGroupVersion.WithResource("events")
	if r.Cluster.list(ctx, events, r.Namespace, options, &list) != nil {
		return
	}
	var last *corev1.Event
	for i := range list.Items {
		e := &list.Items[i]
		if e.Message != "" && s.concerns(e) && (last == nil || !timeOf(e).Before(timeOf(last))) {
			last = e
		}
	}
	if last != nil {
		s.Reason, s.Message = last.Reason, last.Message
	}
}

// concerns says whether an event is about the state that s tells of: not about an
// earlier pod of that name, a container that is not in the way, or a step that was
// made since.
func (s *PodStatus) concerns(e *corev1.Event) bool {
	if uid := e.InvolvedObject.UID; uid != "" && s.uid != "" && uid != s.uid {
		return false
	}
	_, container, of := strings.Cut(strings.TrimSuffix(e.InvolvedObject.FieldPath, "}"), "{")
	switch {
	case !of:
		return !timeOf(e).Before(s.since)
	case s.Container != "":
		return container == s.Container
	}
	return s.waiting == nil || slices.Contains(s.waiting, container)
}

// timeOf is when an event was seen last; which field has it depends on its age and
// on who wrote it.
func timeOf(e *corev1.Event) time.Time {
	last := e.LastTimestamp.Time
	others := []time.Time{e.EventTime.Time, e.FirstTimestamp.Time}
	if e.Series != nil {
		others = append(others, e.Series.LastObservedTime.Time)
	}
	for _, t := range others {
		if t.After(last) {
			last = t
		}
	}
	return last
}
