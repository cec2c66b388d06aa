package kube

import (
	"context"
	"errors"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
)

const (
	// keepPause is between two looks at whether there is still a tunnel.
	keepPause = time.Second
	// sweepPause is between two looks for pods that are gone.
	sweepPause = 5 * time.Second
	// blindPause is the same for a user who may not see pods: that may change.
	blindPause = 5 * time.Minute
	// maxWarm is how many pods of a service have a tunnel kept ready for them.
	maxWarm = 8
)

// keep sees to it that there is a tunnel for connections to come, and tells when
// there is none, once, and when there is one again. It runs until Close.
func (r *Route) keep(pod string) {
	var pause backoff.Backoff
	up := true
	for {
		_, changed, _ := r.pods.current()
		now, err := r.connectUnless(changed)
		if r.life.Err() != nil {
			return
		}
		if errors.Is(err, errChanged) {
			continue
		}
		if up && r.settling(err) {
			r.rest(&pause, err, changed)
			continue
		}
		switch {
		case err == nil && (!up || !r.balancer.spreads() && now != pod):
			r.emit(route.Event{Kind: route.Ready, Pod: now})
		case err != nil && up:
			r.lost(err)
		}
		if err == nil {
			pause.Reset()
			if !up {
				r.pods.wake() // connections wait for this
			}
			pod = now
		}
		up = err == nil
		r.rest(&pause, err, changed)
	}
}

// settling says whether a service and its slices may only not fit together yet: they
// are changed one after the other. keep alone calls it.
func (r *Route) settling(err error) bool {
	switch {
	case !errors.Is(err, ErrNoPort):
		r.portless = time.Time{}
	case r.portless.IsZero():
		r.portless = time.Now()
	}
	return err != nil && !r.portless.IsZero() && time.Since(r.portless) < settleTime
}

// errChanged says that what is known of the pods is another now.
var errChanged = errors.New("pods have changed")

// connectUnless is connect until something has changed.
func (r *Route) connectUnless(changed <-chan struct{}) (pod string, err error) {
	ctx, cancel := context.WithCancelCause(r.life)
	defer cancel(nil)
	over := make(chan struct{})
	defer close(over)
	r.work.Go(func() {
		select {
		case <-changed:
			cancel(errChanged)
		case <-over:
		}
	})
	return r.connect(ctx)
}

// lost tells that the route is broken. Unless that is for want of pods, or the API
// server has answered, what is known of them may be old, and its connections as dead as
// the tunnel: then they are made anew, and all is asked again. Other routes share them,
// whose watches end with them, so that they are looked at first.
func (r *Route) lost(err error) {
	r.emit(route.Event{Kind: route.Reconnecting, Err: err})
	if !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrNoPort) && !answered(err) {
		r.work.Go(func() { r.Cluster.check(r.life) })
	}
}

// rest waits until it is time for keep to look again, after it has failed with err
// or not. After a tunnel has failed its client waits.
func (r *Route) rest(pause *backoff.Backoff, err error, changed <-chan struct{}) {
	if err != nil {
		if len(r.probable(1)) == 0 {
			backoff.Sleep(r.life, pauseAfter(pause, err), changed)
		}
		return
	}
	timer := time.NewTimer(keepPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-r.suspect:
	case <-r.life.Done():
	}
}

// connect opens tunnels where connections are likely to go next, unless there are
// some, and returns the first pod that has one. It fails if none has.
func (r *Route) connect(ctx context.Context) (pod string, err error) {
	all, _, err := r.pods.current()
	pods := r.probable(maxWarm)
	if len(pods) == 0 && err == nil {
		err = r.none(all, r.wanted()[0])
	}
	if len(pods) == 0 {
		return "", err
	}
	type result struct {
		pod string
		err error
	}
	first := make(chan result, len(pods)) // of all
	spreads := r.balancer.spreads()
	results := make([]chan result, len(pods))
	for i, e := range pods {
		if results[i] = first; !spreads {
			results[i] = make(chan result, 1) // in their order, of which the first is told
		}
		r.work.Go(func() { results[i] <- result{e.pod, r.warm(e)} })
	}
	for _, next := range results {
		select {
		case got := <-next:
			if got.err == nil {
				return got.pod, nil
			}
			err = got.err
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	return "", err
}

// warm opens a tunnel to a pod, unless there is one.
func (r *Route) warm(e endpoint) error {
	ctx, cancel := context.WithTimeout(r.life, attemptLimit)
	defer cancel()
	_, err := r.reach(ctx, e, func(c *portforward.Client) (pipe.Conn, error) { return nil, c.Connect(ctx) })
	return err
}

// sweep closes the tunnels of pods that are gone, until Close. A pod that is only
// none of the target's any more keeps them: its connections go on.
func (r *Route) sweep() {
	tick := time.NewTicker(sweepPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.life.Done():
			return
		}
		all, _, _ := r.pods.current()
		next := sweepPause
		for uid, pod := range r.tunnels.strays(all) {
			gone, err := r.gone(uid, pod)
			if apierrors.IsForbidden(err) {
				next = blindPause // the others are too
				break
			}
			if gone {
				r.tunnels.drop(uid)
			}
		}
		tick.Reset(next)
	}
}

// gone says whether a pod does not exist any more, by one request: whoever may not
// ask need not be told who they are.
func (r *Route) gone(uid types.UID, name string) (bool, error) {
	ctx, cancel := r.Cluster.background(r.life)
	defer cancel()
	var now corev1.Pod
	err := r.Cluster.request(http.MethodGet, podResource(), r.Namespace).Name(name).Do(ctx).Into(&now)
	if err != nil {
		return apierrors.IsNotFound(err), err
	}
	return now.UID != uid && !unknownUID(uid), nil
}
