package kube

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// endpoint is one pod that connections may go to.
type endpoint struct {
	pod         string
	uid         types.UID
	ready       bool      // it takes new connections
	terminating bool      // it was told to end, or has ended
	ended       bool      // it has ended
	status      PodStatus // why it is not ready
	ports       ports     // of its containers
	startsLater ports     // of containers that have not started, while others run
	fromSlice   bool      // read from an EndpointSlice: ports has the service's names for them
	port        uint16    // of Route.candidates: the number that the wanted port has here; 0 for any
}

// podState holds what is known of a target's pods, and wakes up those who wait for
// it to change. Its methods are safe to call at the same time.
type podState struct {
	mu      sync.Mutex
	all     []endpoint
	err     error         // why all may be out of date, or nil
	changed chan struct{} // closed after a change
}

func newPodState() *podState { return &podState{changed: make(chan struct{})} }

// current returns what is known, and a channel that is closed when it changes.
func (s *podState) current() (all []endpoint, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all, s.changed, s.err
}

// set replaces what is known. The caller may not change all afterwards.
func (s *podState) set(all []endpoint) {
	s.mu.Lock()
	s.all, s.err = all, nil
	s.mu.Unlock()
	s.notify()
}

// fail notes why what is known cannot be brought up to date.
func (s *podState) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// notify wakes up those who wait for a change.
func (s *podState) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// endpointsFromPods makes endpoints of pods, those that are likely to stay first.
// named means that the user named this one pod. service is the one that selects the
// pods, if the user may not see its EndpointSlices, or nil.
func endpointsFromPods(pods []*corev1.Pod, named bool, service *corev1.Service) []endpoint {
	rank(pods)
	all := make([]endpoint, 0, len(pods))
	for _, p := range pods {
		status, ready := readiness(p, named)
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		e := endpoint{
			pod: p.Name, uid: p.UID, ready: ready, status: status,
			terminating: p.DeletionTimestamp != nil || ended, ended: ended,
			ports: podPorts(p.Spec.Containers, p.Spec.InitContainers),
		}
		if ready && p.Status.Phase == corev1.PodPending {
			e.startsLater = podPorts(notStarted(p), nil)
			e.status, _ = readiness(p, false)
		}
		if service != nil && service.Spec.PublishNotReadyAddresses && !ended {
			e.ready = true
		}
		all = append(all, e)
	}
	if service != nil {
		slices.SortFunc(all, func(a, b endpoint) int { return cmp.Compare(a.pod, b.pod) })
	}
	return all
}

// endpointsFromSlices makes endpoints of what the cluster says a service leads to:
// it decides which pods are ready, and at which ports. A pod may be in several
// slices, with addresses of both families or with other ports in each. While slices
// change they may contradict each other; then the one written last counts.
func endpointsFromSlices(namespace string, list []*discoveryv1.EndpointSlice) []endpoint {
	version := func(s *discoveryv1.EndpointSlice) uint64 {
		n, _ := strconv.ParseUint(s.ResourceVersion, 10, 64) // a number, says the API's reference
		return n
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(version(b), version(a)) })
	var all []endpoint
	index := map[string]int{} // in all, by the pod's name
	for _, s := range list {
		for _, e := range s.Endpoints {
			ref := e.TargetRef
			if ref == nil || ref.Kind != "Pod" || ref.Namespace != "" && ref.Namespace != namespace {
				continue
			}
			found := endpointFromSlice(e, s.Ports)
			if i, ok := index[found.pod]; ok {
				all[i] = merge(all[i], found)
				continue
			}
			index[found.pod] = len(all)
			all = append(all, found)
		}
	}
	// Shuffled, so that not everybody's first choice is the same pod.
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func endpointFromSlice(e discoveryv1.Endpoint, declared []discoveryv1.EndpointPort) endpoint {
	pod, terminating := e.TargetRef.Name, valueOr(e.Conditions.Terminating, false)
	found := endpoint{
		pod: pod, uid: cmp.Or(e.TargetRef.UID, placeholderUID(pod)), fromSlice: true,
		terminating: terminating,
		// A pod that terminates is ready only with publishNotReadyAddresses.
		ready:  valueOr(e.Conditions.Ready, !terminating),
		status: PodStatus{Name: pod, uid: e.TargetRef.UID, vague: true},
	}
	switch {
	case found.terminating:
		found.status.Status = "Terminating"
	case !found.ready:
		found.status.Status = "NotReady"
	}
	for _, p := range declared {
		found.ports = append(found.ports, port{name: valueOr(p.Name, ""), number: uint16(valueOr(p.Port, 0)),
			protocol: valueOr(p.Protocol, corev1.ProtocolTCP)})
	}
	return found
}

// merge joins what two slices say of one pod: the ports of both, unless it is ready
// in only one of them, or the older one is about an earlier pod of that name.
func merge(newer, older endpoint) endpoint {
	switch {
	case isPlaceholder(newer.uid):
		newer.uid = older.uid
	case newer.uid != older.uid && !isPlaceholder(older.uid):
		return newer
	}
	switch {
	case newer.ready && !older.ready:
		return newer
	case older.ready && !newer.ready:
		older.uid = newer.uid
		return older
	}
	newer.ports = slices.Concat(newer.ports, older.ports)
	return newer
}

// placeholderUID stands for the UID of a pod of which only the name is known.
func placeholderUID(pod string) types.UID { return types.UID("name:" + pod) }

func isPlaceholder(uid types.UID) bool { return strings.HasPrefix(string(uid), "name:") }

// valueOr is what p points to, or otherwise if p is nil.
func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
