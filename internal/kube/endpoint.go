package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// endpoint is one pod that a route may lead to.
type endpoint struct {
	pod     string
	uid     types.UID
	ready   bool      // new connections may go there
	leaving bool      // and never will again
	status  PodStatus // why not, if not ready
	ports   ports     // by the names that the target has for them
}

// fromPods makes endpoints of pods, the best choice first. named says that there
// is one, and that it was asked for by name.
func fromPods(pods []*corev1.Pod, named bool) []endpoint {
	rank(pods)
	all := make([]endpoint, 0, len(pods))
	for _, p := range pods {
		status, ready := judge(p, named)
		over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		all = append(all, endpoint{
			pod: p.Name, uid: p.UID, ready: ready, status: status,
			leaving: p.DeletionTimestamp != nil || over,
			ports:   podPorts(p.Spec.Containers, p.Spec.InitContainers),
		})
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
