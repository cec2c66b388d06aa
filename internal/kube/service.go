package kube

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// servicePorts are the ports that a service offers.
func servicePorts(s *corev1.Service) (all ports) {
	for _, p := range s.Spec.Ports {
		all = append(all, port{name: p.Name, number: uint16(p.Port), protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP), target: p.TargetPort})
	}
	return all
}

// isHeadless says whether a service has no address of its own. Its clients connect
// to the pods themselves, so that they may use the pods' port numbers too.
func isHeadless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// portsForService are a pod's ports under the names that a service has for them.
func portsForService(s *corev1.Service, e endpoint) (all ports) {
	if e.fromSlice {
		return e.ports
	}
	for _, p := range servicePorts(s) {
		if number, ok := p.numberAt(e, s); ok {
			all = append(all, port{name: p.name, number: number, protocol: p.protocol})
		}
	}
	return all
}

// numberAt is the number that a service's port has at a pod; false if the pod has none.
func (p port) numberAt(e endpoint, s *corev1.Service) (uint16, bool) {
	number := cmp.Or(uint16(p.target.IntVal), p.number)
	if !e.fromSlice {
		if p.target.Type == intstr.String {
			q, ok := e.ports.named(p.target.StrVal, p.protocol)
			return q.number, ok
		}
		return number, true
	}
	same := e.ports.of(p.protocol)
	if q, ok := same.named(p.name, p.protocol); ok {
		return cmp.Or(q.number, number), true
	}
	// A port without a name cannot be matched by it. It matches every port if it has
	// no number either, and the only one if there is just one.
	if slices.ContainsFunc(same, func(q port) bool { return q.name == "" && q.number == 0 }) {
		return number, true
	}
	if len(same) == 1 && len(servicePorts(s).of(p.protocol)) == 1 && (p.name == "" || same[0].name == "") {
		return cmp.Or(same[0].number, number), true
	}
	return 0, false
}

// affinityTime is for how long after the last connection the next ones go to the
// same pod; 0 means that they need not. The service sees one client: this process.
func affinityTime(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil {
		seconds = valueOr(c.ClientIP.TimeoutSeconds, seconds)
	}
	return time.Duration(seconds) * time.Second
}

// serviceSelector selects a service's pods. Without a selector it selects none.
func serviceSelector(s *corev1.Service) string {
	if len(s.Spec.Selector) == 0 {
		return "none,!none"
	}
	return labels.SelectorFromSet(s.Spec.Selector).String()
}
