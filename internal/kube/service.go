package kube

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// servicePorts are the ports that a service offers.
func servicePorts(s *corev1.Service) (all ports) {
	for _, p := range s.Spec.Ports {
		all = append(all, port{name: p.Name, number: uint16(p.Port), protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP)})
	}
	return all
}

// headless says whether a service has no address of its own. Its clients reach
// the pods themselves, so that its ports are the pods', as in kubectl.
func headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// affinity is how long connections stay with one pod after the last; 0 means that
// they do not. All come from one client here: this process.
func affinity(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func serviceSelector(s *corev1.Service) string {
	return labels.SelectorFromSet(s.Spec.Selector).String()
}

// fromSlices makes endpoints of what the cluster itself says a service leads to:
// ready or not, and at which ports, is decided there. A pod with addresses of two
// families is in two slices.
func fromSlices(slicesOf []*discoveryv1.EndpointSlice) []endpoint {
	var all []endpoint
	seen := map[types.UID]bool{}
	for _, s := range slicesOf {
		for _, e := range s.Endpoints {
			if ref := e.TargetRef; ref == nil || ref.Kind != "Pod" || seen[ref.UID] {
				continue
			}
			seen[e.TargetRef.UID] = true
			all = append(all, fromSlice(e, s.Ports))
		}
	}
	// No pod is to be the first choice of everybody.
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func fromSlice(e discoveryv1.Endpoint, declared []discoveryv1.EndpointPort) endpoint {
	to := endpoint{pod: e.TargetRef.Name, uid: e.TargetRef.UID, status: PodStatus{Name: e.TargetRef.Name, uid: e.TargetRef.UID, vague: true}}
	is := func(condition *bool, unknown bool) bool {
		return condition == nil && unknown || condition != nil && *condition
	}
	switch {
	case is(e.Conditions.Terminating, false):
		to.status.Status, to.leaving = "Terminating", true
	case is(e.Conditions.Ready, true):
		to.ready = true
	default:
		to.status.Status = "NotReady"
	}
	for _, p := range declared {
		if p.Port == nil || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		q := port{number: uint16(*p.Port), protocol: corev1.ProtocolTCP}
		if p.Name != nil {
			q.name = *p.Name
		}
		to.ports = append(to.ports, q)
	}
	return to
}

// fromServicePods makes endpoints of the pods that a service selects, for a user
// who may not see its slices: a pod's port takes the name of the service's.
func fromServicePods(s *corev1.Service, pods []*corev1.Pod) []endpoint {
	all := fromPods(pods, false)
	for i := range all {
		declared := all[i].ports
		all[i].ports = nil
		for _, p := range s.Spec.Ports {
			number, ok := targetPort(p, declared)
			if ok && cmp.Or(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
				all[i].ports = append(all[i].ports, port{name: p.Name, number: number, protocol: corev1.ProtocolTCP})
			}
		}
		all[i].ready = all[i].ready || s.Spec.PublishNotReadyAddresses && !all[i].leaving
	}
	slices.SortFunc(all, func(a, b endpoint) int { return cmp.Compare(a.pod, b.pod) })
	return all
}

// targetPort is the number of a service's port at a pod.
func targetPort(p corev1.ServicePort, declared ports) (uint16, bool) {
	switch {
	case p.TargetPort.Type == intstr.String:
		return declared.named(p.TargetPort.StrVal)
	case p.TargetPort.IntVal == 0:
		return uint16(p.Port), true
	}
	return uint16(p.TargetPort.IntVal), true
}
