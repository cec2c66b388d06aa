package kube

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
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
// the pods themselves, so that they may use the pods' numbers too.
func headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// named finds a service's TCP port by its name, and numbered by its number.
func named(s *corev1.Service, name string) (corev1.ServicePort, bool) {
	return findPort(s, func(p corev1.ServicePort) bool { return p.Name == name })
}

func numbered(s *corev1.Service, number uint16) (corev1.ServicePort, bool) {
	return findPort(s, func(p corev1.ServicePort) bool { return uint16(p.Port) == number })
}

func findPort(s *corev1.Service, match func(corev1.ServicePort) bool) (corev1.ServicePort, bool) {
	for _, p := range s.Spec.Ports {
		if isTCP(p) && match(p) {
			return p, true
		}
	}
	return corev1.ServicePort{}, false
}

func isTCP(p corev1.ServicePort) bool {
	return cmp.Or(p.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP
}

// at is the number that a service's port has at a pod, given what the pod offers
// to that service; false if it has none.
func at(s *corev1.Service, p corev1.ServicePort, offered ports) (uint16, bool) {
	unrestricted := cmp.Or(uint16(p.TargetPort.IntVal), uint16(p.Port))
	if number, ok := offered.named(p.Name); ok {
		return cmp.Or(number, unrestricted), true
	}
	// A port without a name is not told apart by it: it stands for all if it has
	// no number either, and for the only one if there is one.
	some := offered.tcp()
	for _, q := range some {
		if q.name == "" && q.number == 0 {
			return unrestricted, true
		}
	}
	if len(some) == 1 && len(servicePorts(s).tcp()) == 1 && (p.Name == "" || some[0].name == "") {
		return cmp.Or(some[0].number, unrestricted), true
	}
	return 0, false
}

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

// serviceSelector is what a service's pods have. A service without selector has none.
func serviceSelector(s *corev1.Service) string {
	if len(s.Spec.Selector) == 0 {
		return "none,!none"
	}
	return labels.SelectorFromSet(s.Spec.Selector).String()
}

// fromSlices makes endpoints of what the cluster itself says a service leads to:
// ready or not, and at which ports, is decided there. A pod may be in several
// slices: with addresses of both families, or with other ports in each. While they
// change they may contradict each other, and what was written last counts.
func fromSlices(namespace string, slicesOf []*discoveryv1.EndpointSlice) []endpoint {
	var all []endpoint
	place := map[string]int{}
	for _, s := range newestFirst(slicesOf) {
		for _, e := range s.Endpoints {
			ref := e.TargetRef
			if ref == nil || ref.Kind != "Pod" || ref.Namespace != "" && ref.Namespace != namespace {
				continue
			}
			to := fromSlice(e, s.Ports)
			if i, ok := place[to.pod]; ok {
				all[i] = merge(all[i], to)
				continue
			}
			place[to.pod] = len(all)
			all = append(all, to)
		}
	}
	// No pod is to be the first choice of everybody.
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func newestFirst(all []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	version := func(s *discoveryv1.EndpointSlice) uint64 {
		n, _ := strconv.ParseUint(s.ResourceVersion, 10, 64) // a number, says the API's reference
		return n
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(version(b), version(a)) })
	return all
}

// merge joins what two slices say of one pod: the ports of both, unless it is
// ready in one alone, or one speaks of an earlier pod of that name.
func merge(newer, older endpoint) endpoint {
	switch {
	case newer.uid != older.uid && !unknownUID(newer.uid) && !unknownUID(older.uid):
		return newer
	case unknownUID(newer.uid):
		newer.uid = older.uid
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

func fromSlice(e discoveryv1.Endpoint, declared []discoveryv1.EndpointPort) endpoint {
	to := endpoint{pod: e.TargetRef.Name, uid: e.TargetRef.UID, offers: true, status: PodStatus{Name: e.TargetRef.Name, uid: e.TargetRef.UID, vague: true}}
	if to.uid == "" {
		to.uid = uidOfName(to.pod)
	}
	is := func(condition *bool, unknown bool) bool {
		return condition == nil && unknown || condition != nil && *condition
	}
	// Whoever ends is ready only where publishNotReadyAddresses says so.
	to.leaving = is(e.Conditions.Terminating, false)
	to.ready = is(e.Conditions.Ready, !to.leaving)
	switch {
	case to.leaving:
		to.status.Status = "Terminating"
	case !to.ready:
		to.status.Status = "NotReady"
	}
	for _, p := range declared {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		q := port{protocol: corev1.ProtocolTCP}
		if p.Name != nil {
			q.name = *p.Name
		}
		if p.Port != nil {
			q.number = uint16(*p.Port)
		}
		to.ports = append(to.ports, q)
	}
	return to
}

// fromServicePods makes endpoints of the pods that a service selects, for a user
// who may not see its slices.
func fromServicePods(s *corev1.Service, pods []*corev1.Pod) []endpoint {
	all := fromPods(pods, false)
	for i := range all {
		all[i].ready = all[i].ready || s.Spec.PublishNotReadyAddresses && !all[i].over
	}
	slices.SortFunc(all, func(a, b endpoint) int { return cmp.Compare(a.pod, b.pod) })
	return all
}

// offered are a pod's ports by the names that a service has for them.
func offered(s *corev1.Service, e endpoint) ports {
	if e.offers {
		return e.ports
	}
	var all ports
	for _, p := range s.Spec.Ports {
		if number, ok := targetPort(p, e.ports); ok && isTCP(p) {
			all = append(all, port{name: p.Name, number: number, protocol: corev1.ProtocolTCP})
		}
	}
	return all
}

// targetPort is the number of a service's port at a pod with these ports.
func targetPort(p corev1.ServicePort, declared ports) (uint16, bool) {
	switch {
	case p.TargetPort.Type == intstr.String:
		return declared.named(p.TargetPort.StrVal)
	case p.TargetPort.IntVal == 0:
		return uint16(p.Port), true
	}
	return uint16(p.TargetPort.IntVal), true
}
