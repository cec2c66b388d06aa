package kube

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// endpoint is one pod that a route may lead to.
type endpoint struct {
	pod     string
	uid     types.UID
	ready   bool      // new connections may go there
	leaving bool      // it is told to end, or has ended
	over    bool      // it has ended
	status  PodStatus // why not, if not ready
	ports   ports     // of its containers
	begins  ports     // of those that have not begun, where others run
	offers  bool      // ports are what a service calls them, from its EndpointSlices
}

// uidOfName stands for the UID of a pod of which only the name is known.
func uidOfName(pod string) types.UID { return types.UID("name:" + pod) }

func unknownUID(uid types.UID) bool { return strings.HasPrefix(string(uid), "name:") }

// fromPods makes endpoints of pods, the best choice first. named says that there
// is one, and that it was asked for by name.
func fromPods(pods []*corev1.Pod, named bool) []endpoint {
	rank(pods)
	all := make([]endpoint, 0, len(pods))
	for _, p := range pods {
		status, ready := judge(p, named)
		over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		e := endpoint{
			pod: p.Name, uid: p.UID, ready: ready, status: status,
			leaving: p.DeletionTimestamp != nil || over, over: over,
			ports: podPorts(p.Spec.Containers, p.Spec.InitContainers),
		}
		if ready && p.Status.Phase == corev1.PodPending {
			e.begins = podPorts(notBegun(p), nil)
			e.status, _ = judge(p, false)
		}
		all = append(all, e)
	}
	return all
}

// statuses are those of the endpoints that are not ready.
func statuses(all []endpoint) (each []PodStatus) {
	for _, e := range all {
		if !e.ready {
			each = append(each, e.status)
		}
	}
	return each
}

// anyReady says whether new connections have somewhere to go.
func anyReady(all []endpoint) bool {
	for _, e := range all {
		if e.ready {
			return true
		}
	}
	return false
}

// allHopeless says whether waiting for one of the pods makes no sense. Where one
// was deleted or has ended, another may take its place.
func allHopeless(all []PodStatus) bool {
	for _, s := range all {
		if !s.hopeless {
			return false
		}
	}
	return len(all) > 0
}
