package kube

import (
	"cmp"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/target"
)

// Ports fills in the numbers of ports that have names, and checks all of them. A
// service's ports keep their numbers, and Dial takes those. Dial remembers what was
// asked for: a name is looked up at each pod that connections go to, and a
// service's port in the service as it is then. Errors: *PortError.
func (r *Route) Ports(given []target.Port) ([]target.Port, error) {
	if err := r.want(given); err != nil {
		return nil, err
	}
	pods, _, _ := r.pods.current()
	service := r.object.service.Load()
	var declared ports
	undeclared := service == nil // numbers are taken too that nothing declares
	if service != nil {
		declared = servicePorts(service)
		if isHeadless(service) {
			for _, e := range pods {
				declared = append(declared, portsForService(service, e)...)
			}
			undeclared = len(service.Spec.Ports) == 0
		}
	}
	all := slices.Clone(given)
	for i := range all {
		ref := refTo(all[i])
		if ref == (portRef{}) {
			continue
		}
		if service == nil {
			declared = portsOfBest(pods, ref)
		}
		number, err := declared.numberOf(ref, r.name(), undeclared)
		if err != nil {
			return nil, err
		}
		if all[i].Remote = number; all[i].Same {
			all[i].Local = number
		}
		r.mu.Lock()
		r.refs[all[i].To()] = ref
		r.mu.Unlock()
	}
	return all, nil
}

// want notes the ports that connections will be for. A port that a service does not
// declare is an error at once, unless the service's pods may have it.
func (r *Route) want(given []target.Port) error {
	service := r.object.service.Load()
	for _, p := range given {
		ref := refTo(p)
		if service != nil && !isHeadless(service) && ref != (portRef{}) {
			if _, err := servicePorts(service).numberOf(ref, r.name(), false); err != nil {
				return err
			}
		}
		r.mu.Lock()
		if !slices.Contains(r.wanted, ref) {
			r.wanted = append(r.wanted, ref)
		}
		r.mu.Unlock()
	}
	r.learnNames(service)
	return nil
}

// learnNames notes the names that a service has for the ports that are wanted by
// their numbers.
func (r *Route) learnNames(service *corev1.Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ref := range r.wanted {
		if service == nil || ref.name != "" {
			continue
		}
		if p, ok := servicePorts(service).of(ref.protocol()).find(ref); ok {
			r.lastNames[ref] = p.name
		}
	}
}

// portsOfBest are the ports of the pod that suits a port best: it has the port for
// its protocol, or else for another one; among such pods, it is ready, or at least stays.
func portsOfBest(all []endpoint, ref portRef) ports {
	if len(all) == 0 {
		return nil
	}
	score := func(e endpoint) (n int) {
		if p, ok := e.ports.find(ref); ok {
			n += 3
			if p.protocol == ref.protocol() {
				n += 3
			}
		}
		switch {
		case e.ready:
			n += 2
		case !e.terminating:
			n++
		}
		return n
	}
	return slices.MaxFunc(all, func(a, b endpoint) int { return cmp.Compare(score(a), score(b)) }).ports
}

// refOf is what was asked for when Ports gave out a number.
func (r *Route) refOf(to target.Address) portRef {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref, ok := r.refs[to]; ok {
		return ref
	}
	return refTo(target.Port{Network: to.Network, Host: to.Host, Remote: to.Port, Path: to.Path})
}

// wantedPorts are the ports that connections will be for, or any port if they are
// not known.
func (r *Route) wantedPorts() []portRef {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wanted) == 0 {
		return []portRef{{}}
	}
	return slices.Clone(r.wanted)
}

// portAt is the number that a port has at a pod now; false if the pod has no such
// port. A number that a service no longer has stands for the port that had it, if that
// still has its name. Errors: *PortError where no pod of a service can have it.
func (r *Route) portAt(e endpoint, ref portRef) (number uint16, ok bool, err error) {
	service := r.object.service.Load()
	switch {
	case ref == portRef{}:
		return 0, true, nil
	case service == nil:
		number, ok = ref.number, true
		if ref.name != "" {
			var p port
			p, ok = e.ports.named(ref.name, ref.protocol())
			number = p.number
		}
		_, later := e.startsLater.find(portRef{network: ref.network, number: number})
		return number, ok && !later, nil
	}
	declared := servicePorts(service)
	p, ok := declared.of(ref.protocol()).find(ref)
	if !ok {
		r.mu.Lock()
		name, known := r.lastNames[ref]
		r.mu.Unlock()
		if known {
			p, ok = declared.named(name, ref.protocol())
		}
	}
	if ok {
		number, ok = p.numberAt(e, service)
		return number, ok, nil
	}
	if !isHeadless(service) {
		_, err = declared.numberOf(ref, r.name(), false)
		return 0, false, err
	}
	if q, ok := portsForService(service, e).of(ref.protocol()).find(ref); ok {
		return q.number, true, nil
	}
	return ref.number, len(service.Spec.Ports) == 0 && ref.name == "", nil
}

// candidates are the pods that have a port, each with its number there. Where connections stay with one pod,
// those come first that have most of the other wanted ports too.
// Errors: *PortError where no pod of a service can have it.
func (r *Route) candidates(all []endpoint, ref portRef) (some []endpoint, err error) {
	for _, e := range all {
		number, ok, err := r.portAt(e, ref)
		if err != nil {
			return nil, err
		}
		if ok {
			e.port = number
			some = append(some, e)
		}
	}
	if wanted := r.wantedPorts(); len(wanted) > 1 && !r.balancer.spreads() {
		count := map[types.UID]int{}
		for _, e := range some {
			for _, other := range wanted {
				if _, ok, _ := r.portAt(e, other); ok {
					count[e.uid]++
				}
			}
		}
		slices.SortStableFunc(some, func(a, b endpoint) int { return cmp.Compare(count[b.uid], count[a.uid]) })
	}
	return some, nil
}

// likely are up to most pods that the next connections may go to, those for the
// first wanted port first.
func (r *Route) likely(most int) (best []endpoint) {
	all, _, _ := r.pods.current()
	for _, ref := range r.wantedPorts() {
		candidates, err := r.candidates(all, ref)
		if err != nil {
			continue // each connection to it gets this error
		}
		for _, e := range r.balancer.likely(candidates, ref, most, r.tunnels.has) {
			same := func(b endpoint) bool { return b.uid == e.uid }
			if len(best) < most && !slices.ContainsFunc(best, same) {
				best = append(best, e)
			}
		}
	}
	return best
}

// PodPort is the number at the pod that connections to a port go to now; a
// service's own may differ from it. Errors: *PortError.
func (r *Route) PodPort(to target.Address) (uint16, error) {
	ref := r.refOf(to)
	all, _, _ := r.pods.current()
	candidates, err := r.candidates(all, ref)
	if err != nil {
		return 0, err
	}
	best := append(r.balancer.likely(candidates, ref, 1, r.tunnels.has), candidates...)
	if len(best) == 0 {
		return 0, r.noPort(all, ref)
	}
	return best[0].port, nil
}

// noPort is the error that no pod has a port.
func (r *Route) noPort(all []endpoint, ref portRef) error {
	service := r.object.service.Load()
	if service == nil {
		_, err := portsOfBest(all, ref).numberOf(ref, r.name(), false)
		return err
	}
	if _, err := servicePorts(service).numberOf(ref, r.name(), false); errors.Is(err, ErrProtocol) {
		return err
	}
	e := &PortError{Target: r.name(), Port: ref.String(), Pods: true}
	for _, pod := range all {
		e.Available = append(e.Available, portsForService(service, pod).describe(ref.protocol())...)
	}
	slices.Sort(e.Available)
	e.Available = slices.Compact(e.Available)
	return e
}
