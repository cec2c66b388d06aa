package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pinned"
)

const (
	// The pauses between two looks at a relay's pod.
	minLook = 100 * time.Millisecond
	maxLook = 500 * time.Millisecond
	// maxCreated is how many relays an attempt creates: somebody else may remove the first.
	maxCreated = 3
	// removeTime is how long the removal of a relay that does not start may take.
	removeTime = 5 * time.Second
)

// The errors of relays. Each is wrapped in a *RelayError.
var (
	// ErrNoRelay means that a Job is in the way which is not the user's relay.
	ErrNoRelay = errors.New("a Job of this name exists, and it is not this user's relay")
	// ErrRelayEnds means that the relay that was there is ending, which takes its time.
	ErrRelayEnds = errors.New("the previous one is still ending")
	// ErrRelayLost means that Jobs vanish as soon as they are created.
	ErrRelayLost = errors.New("its Job is removed each time it is created")
)

// RelayError says that a relay could not be started, or be reached.
type RelayError struct {
	Job       string // its name
	Namespace string
	Left      error // why the Job could not be removed; nil if it is gone, or was none of this attempt's
	Err       error
}

func (e *RelayError) Error() string {
	text := fmt.Sprintf("relay %s in namespace %s: %v", e.Job, e.Namespace, e.Err)
	if e.Left != nil {
		text += fmt.Sprintf("; its Job is left: %v", e.Left)
	}
	return text
}

func (e *RelayError) Unwrap() error { return e.Err }

// relayStart is one attempt to have a relay that runs.
type relayStart struct {
	*relay
	want    *batchv1.Job
	key     pinned.PublicKey
	created int
	seen    types.UID // of the last Job that was there and had not ended; "" before
}

// run returns the pod of a relay that runs. What keeps it from running is an error at once if it
// will not pass by itself, or else when ctx ends.
func (s *relayStart) run(ctx context.Context) (*corev1.Pod, error) {
	var pause backoff.Backoff
	var why error
	for {
		job, err := s.find(ctx)
		if err == nil && !demandsKey(job, s.key) {
			err = ErrNoRelay
		}
		if err != nil && ctx.Err() == nil {
			return nil, s.failure(err)
		}
		if err == nil {
			var pod *corev1.Pod
			if pod, err = s.look(ctx, job); pod != nil {
				return pod, nil
			}
		}
		if ctx.Err() == nil || why == nil { // and not that the last look was cut short
			why = err
			waits := s.failure(why)
			s.set(func() { s.status = waits })
		}
		if ctx.Err() != nil || isHopeless(why) {
			return nil, s.giveUp(ctx, why)
		}
		backoff.Sleep(ctx, pause.Next(minLook, maxLook), nil)
	}
}

// find returns the Job, and creates it if there is none.
func (s *relayStart) find(ctx context.Context) (*batchv1.Job, error) {
	for {
		job := new(batchv1.Job)
		err := s.cluster.get(ctx, jobResource(), s.namespace, s.want.Name, job)
		if !apierrors.IsNotFound(err) {
			return job, err
		}
		if s.created == maxCreated {
			return nil, ErrRelayLost
		}
		if job, err = s.create(ctx); !apierrors.IsAlreadyExists(err) { // somebody else was quicker, with the same
			return job, err
		}
	}
}

// create creates the Job. It is not interrupted: what was created has to be known.
func (s *relayStart) create(ctx context.Context) (*batchv1.Job, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel := s.cluster.background(context.WithoutCancel(ctx))
	defer cancel()
	job := new(batchv1.Job)
	a := apiAction{"create", jobResource(), "", s.namespace, ""}
	err := s.cluster.request(a).Body(s.want).Do(ctx).Into(job)
	switch {
	case err == nil:
		s.created++
		s.seen = job.UID
		return job, nil
	case apierrors.IsNotFound(err):
		return nil, &NotFoundError{Target: "job/" + s.want.Name, Namespace: s.namespace, NoNamespace: true}
	}
	return nil, s.cluster.admissionError(ctx, err, a)
}

// look returns a Job's pod if it runs, or else why it does not.
func (s *relayStart) look(ctx context.Context, job *batchv1.Job) (*corev1.Pod, error) {
	if isOver(job) {
		return nil, ErrRelayEnds
	}
	var list corev1.PodList
	options := metav1.ListOptions{LabelSelector: "job-name=" + job.Name} // with a prefix since Kubernetes 1.27 only
	if err := s.cluster.list(ctx, podResource(), s.namespace, options, &list); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list.Items, func(p corev1.Pod) bool { return metav1.IsControlledBy(&p, job) })
	if i < 0 {
		s.seen = job.UID
		return nil, s.podless(ctx, job)
	}
	pod := &list.Items[i]
	status, _ := readiness(pod, false)
	switch ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed; {
	case pod.DeletionTimestamp != nil, ended && s.seen != job.UID:
		return nil, ErrRelayEnds
	case !ended && runs(pod):
		return pod, nil
	}
	s.seen = job.UID
	return nil, &NotReadyError{Target: "it", Namespace: s.namespace, Pods: []PodStatus{status}}
}

// podless says why a Job has no pod: it may be too new, or a quota or an admission controller
// refuses the pod, which only events tell.
func (s *relayStart) podless(ctx context.Context, job *batchv1.Job) error {
	e := &NotReadyError{Target: "it", Namespace: s.namespace}
	events, _ := s.cluster.warnings(ctx, s.namespace, fields.Set{"uid": string(job.UID)})
	if i := slices.IndexFunc(events, func(e corev1.Event) bool { return e.Message != "" }); i >= 0 {
		e.Reason = fmt.Sprintf("gets no pod: %s: %s", events[i].Reason, events[i].Message)
	}
	return e
}

// isHopeless says whether what keeps a relay from running will not pass by itself.
func isHopeless(why error) bool {
	var e *NotReadyError
	if errors.As(why, &e) {
		return e.Reason != "" || len(e.Pods) > 0 && (e.Pods[0].permanent || cannotStart(e.Pods[0].Reason))
	}
	return errors.Is(why, ErrForbidden)
}

// giveUp returns the error of an attempt, and removes the Job that does not start: nobody else
// would. One that another process has created stays if the attempt was only interrupted.
func (s *relayStart) giveUp(ctx context.Context, why error) error {
	e := s.failure(why)
	interrupted := errors.Is(ctx.Err(), context.Canceled)
	if s.seen == "" || interrupted && s.created == 0 || errors.Is(why, ErrRelayEnds) {
		return e
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	e.Left = s.cluster.deleteJob(ctx, s.namespace, s.want.Name, s.seen)
	return e
}

// deleteJob removes a Job with its pods. That it is gone, or another one by now, is no error.
func (c *Cluster) deleteJob(ctx context.Context, namespace, name string, uid types.UID) error {
	a := apiAction{"delete", jobResource(), "", namespace, name}
	options := &metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &uid},
		PropagationPolicy: new(metav1.DeletePropagationBackground),
	}
	err := c.request(a).Body(options).Do(ctx).Error()
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return c.requestError(ctx, err, a)
}
