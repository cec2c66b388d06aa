package kube

import (
	"cmp"
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
	for _, p := range servicePorts(s).tcp() {
		number, ok := p.targetNumber(), true
		if p.target.Type == intstr.String {
			var q port
			q, ok = e.ports.named(p.target.StrVal)
			number = q.number
		}
		if ok {
			all = append(all, port{name: p.name, number: number, protocol: corev1.ProtocolTCP})
		}
	}
	return all
}

// targetNumber is the number of a service's port at its pods, unless the pods
// decide it by a name.
func (p port) targetNumber() uint16 { return cmp.Or(uint16(p.target.IntVal), p.number) }

// numberAtPod is the number that a service's port has at a pod, given the pod's
// portsForService; false if the pod has none.
func numberAtPod(s *corev1.Service, p port, atPod ports) (uint16, bool) {
	if q, ok := atPod.named(p.name); ok {
		return cmp.Or(q.number, p.targetNumber()), true
	}
	// A port without a name cannot be matched by it. It matches every port if it has
	// no number either, and the only one if there is just one.
	all := atPod.tcp()
	for _, q := range all {
		if q.name == "" && q.number == 0 {
			return p.targetNumber(), true
		}
	}
	if len(all) == 1 && len(servicePorts(s).tcp()) == 1 && (p.name == "" || all[0].name == "") {
		return cmp.Or(all[0].number, p.targetNumber()), true
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
