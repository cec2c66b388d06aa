package kube

import (
	"errors"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/route"
)

// monitorPause is between two looks at whether there is still a tunnel.
const monitorPause = time.Second

// errChanged means that the target's pods have changed.
var errChanged = errors.New("pods have changed")

// monitor keeps tunnels open for connections to come. It reports when that fails, once,
// and when it succeeds again.
type monitor struct {
	route *Route
	pod   string // that connections lead to
	up    bool
	pause backoff.Backoff
	// portless is since when no pod has the port, though some are ready; or zero.
	portless time.Time
}

// run monitors until the route is closed.
func (m *monitor) run() {
	for {
		_, changed, _ := m.route.pods.current()
		pod, err := m.route.warmPods(m.route.life, changed)
		if m.route.life.Err() != nil {
			return
		}
		if errors.Is(err, errChanged) {
			continue
		}
		if !m.up || !m.maySettle(err) {
			m.report(pod, err)
		}
		m.rest(err, changed)
	}
}

// maySettle says whether err may pass at once: a service and its EndpointSlices are
// changed one after the other, and disagree about ports in between.
func (m *monitor) maySettle(err error) bool {
	switch {
	case !errors.Is(err, ErrNoPort):
		m.portless = time.Time{}
	case m.portless.IsZero():
		m.portless = time.Now()
	}
	return err != nil && !m.portless.IsZero() && time.Since(m.portless) < settleTime
}

// report emits an event if the route has broken, works again, or leads to another pod.
//
// When it breaks although a pod is ready, and without an answer from the API server,
// then the connections to the server may be as dead as the tunnel, and what is known
// of the pods old. So they are checked, and closed if they are dead. Other routes
// share them, and would lose their watches otherwise.
func (m *monitor) report(pod string, err error) {
	r, was := m.route, m.up
	m.up = err == nil
	switch {
	case err == nil && (!was || !r.balancer.spreads() && pod != m.pod):
		r.emit(route.Event{Kind: route.Ready, Pod: pod})
	case err != nil && was:
		r.emit(route.Event{Kind: route.Reconnecting, Pod: m.pod, Err: err})
		if !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrNoPort) && refusal(err) == 0 {
			r.work.Go(func() { r.Cluster.check(r.life) })
		}
	}
	if err != nil {
		return
	}
	m.pod = pod
	m.pause.Reset()
	if !was {
		r.pods.notify() // connections wait for this
	}
}

// rest waits until it is time to look again. After a failure it waits longer each
// time, unless a pod is known: then its portforward.Client does the waiting.
func (m *monitor) rest(err error, changed <-chan struct{}) {
	r := m.route
	if err != nil {
		if len(r.likely(1)) == 0 {
			backoff.Sleep(r.life, pauseAfter(&m.pause, err), changed)
		}
		return
	}
	timer := time.NewTimer(monitorPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-r.recheck:
	case <-r.life.Done():
	}
}
