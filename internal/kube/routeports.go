package kube

import (
	"cmp"
	"errors"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"porthole.dev/porthole/internal/target"
)

// ask is a port as it was asked for: by its name, or else by its number. The zero
// value is for any.
type portRef struct {
	name   string
	number uint16
}

func askOf(p target.Port) portRef {
	if p.Name != "" {
		return portRef{name: p.Name}
	}
	return portRef{number: p.Remote}
}

func (a portRef) String() string { return cmp.Or(a.name, strconv.Itoa(int(a.number))) }

// Ports fills in the numbers of ports that have names, and checks all of them. A
// service's ports keep their numbers, and Dial takes those. What Dial makes of a
// number depends on what was asked for: a name is looked up at each pod that
// connections go to, and a service's port in the service as it is then.
// Errors: *PortError.
func (r *Route) Ports(given []target.Port) ([]target.Port, error) {
	if err := r.ask(given); err != nil {
		return nil, err
	}
	all := make([]target.Port, 0, len(given))
	for _, p := range given {
		number, err := r.number(askOf(p))
		if err != nil {
			return nil, err
		}
		if p.Remote = number; p.Same {
			p.Local = number
		}
		r.mu.Lock()
		r.asked[number] = askOf(p)
		r.mu.Unlock()
		all = append(all, p)
	}
	return all, nil
}

// ask takes note of ports that connections will be for. What a service does not
// declare is an error at once, unless its pods may.
func (r *Route) ask(given []target.Port) error {
	service := r.resolved.service.Load()
	for _, p := range given {
		a := askOf(p)
		if service != nil && !headless(service) {
			if _, err := servicePorts(service).resolve(r.resolved.name, a, false); err != nil {
				return err
			}
		}
		r.mu.Lock()
		if !slices.Contains(r.asks, a) {
			r.asks = append(r.asks, a)
		}
		r.mu.Unlock()
	}
	r.learnNames(service)
	return nil
}

// learnNames notes what a service calls the ports that are asked for by their numbers.
func (r *Route) learnNames(service *corev1.Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.asks {
		if service == nil || a.name != "" {
			continue
		}
		if declared, ok := numbered(service, a.number); ok {
			r.names[a] = declared.Name
		}
	}
}

// number is what a port's listeners are told apart by: a service's own number, or
// the one at a pod.
func (r *Route) number(a portRef) (uint16, error) {
	all, _, _ := r.pods.current()
	service := r.resolved.service.Load()
	if service == nil {
		return podsPorts(all, a).resolve(r.resolved.name, a, true)
	}
	declared := servicePorts(service)
	if headless(service) {
		for _, e := range all {
			declared = append(declared, offered(service, e)...)
		}
	}
	return declared.resolve(r.resolved.name, a, headless(service) && len(service.Spec.Ports) == 0)
}

// podsPorts are the ports of the first pod that has the one that is asked for, for
// TCP if any has, or else of the first; pods that are ready come before others.
func podsPorts(all []endpoint, a portRef) (best ports) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b endpoint) int { return cmp.Compare(rankReady(a), rankReady(b)) })
	const (
		nothing = iota
		other
		tcp
	)
	had := -1
	for _, e := range all {
		has := nothing
		if q, ok := e.ports.find(a); ok {
			if has = other; q.protocol == corev1.ProtocolTCP {
				has = tcp
			}
		}
		if has > had {
			best, had = e.ports, has
		}
	}
	return best
}

func rankReady(e endpoint) int {
	switch {
	case e.ready:
		return 0
	case !e.leaving:
		return 1
	}
	return 2
}

// askedAs is what was asked for when Ports gave out a number.
func (r *Route) askedAs(number uint16) portRef {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.asked[number]; ok {
		return a
	}
	return portRef{number: number}
}

// wanted are the ports that connections will be for; any, if that is not known.
func (r *Route) wanted() []portRef {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.asks) == 0 {
		return []portRef{{}}
	}
	return slices.Clone(r.asks)
}

// declared is the service's port that is asked for, as the service is now. A number
// that it does not have any more stands for the port that had it, which still has
// its name. Errors: *PortError.
func (r *Route) declared(service *corev1.Service, a portRef) (corev1.ServicePort, error) {
	find := func() (corev1.ServicePort, bool) { return numbered(service, a.number) }
	if a.name != "" {
		find = func() (corev1.ServicePort, bool) { return named(service, a.name) }
	}
	if p, ok := find(); ok {
		return p, nil
	}
	r.mu.Lock()
	name, ok := r.names[a]
	r.mu.Unlock()
	if p, still := named(service, name); ok && still {
		return p, nil
	}
	_, err := servicePorts(service).resolve(r.resolved.name, a, false)
	return corev1.ServicePort{}, err
}

// portAt is the number of what is asked for at a pod, now; false if the pod has no
// such port. Errors: *PortError where no pod of a service can have it.
func (r *Route) portAt(e endpoint, a portRef) (uint16, bool, error) {
	service := r.resolved.service.Load()
	switch {
	case a == portRef{}:
		return 0, true, nil
	case service == nil:
		number, ok := a.number, true
		if a.name != "" {
			number, ok = e.ports.named(a.name)
		}
		_, early := e.begins.find(portRef{number: number})
		return number, ok && !early, nil
	}
	here := offered(service, e)
	p, err := r.declared(service, a)
	if err == nil {
		number, ok := at(service, p, here)
		return number, ok, nil
	}
	if !headless(service) {
		return 0, false, err
	}
	if q, ok := here.tcp().find(a); ok {
		return q.number, true, nil
	}
	return a.number, len(service.Spec.Ports) == 0 && a.name == "", nil
}

// having are the pods that have the port that is asked for. Where connections stay
// with one, those come first that have most of the other ports too.
// Errors: *PortError where no pod of a service can have it.
func (r *Route) having(all []endpoint, a portRef) ([]endpoint, error) {
	var some []endpoint
	for _, e := range all {
		_, ok, err := r.portAt(e, a)
		if err != nil {
			return nil, err
		}
		if ok {
			some = append(some, e)
		}
	}
	if wanted := r.wanted(); len(wanted) > 1 && !r.balancer.spreads() {
		count := map[types.UID]int{}
		for _, e := range some {
			for _, a := range wanted {
				if _, ok, _ := r.portAt(e, a); ok {
					count[e.uid]++
				}
			}
		}
		slices.SortStableFunc(some, func(a, b endpoint) int { return cmp.Compare(count[b.uid], count[a.uid]) })
	}
	return some, nil
}

// pick chooses the pod for a new connection; false if there is none now.
// Errors: *PortError where there never will be one.
func (r *Route) pick(all []endpoint, a portRef) (endpoint, bool, error) {
	having, err := r.having(all, a)
	if err != nil {
		return endpoint{}, false, err
	}
	e, ok := r.balancer.next(having, a)
	return e, ok, nil
}

// probable are pods that the next connections may go to, at most most, those for
// the first port first.
func (r *Route) probable(most int) (best []endpoint) {
	all, _, _ := r.pods.current()
	for _, a := range r.wanted() {
		having, err := r.having(all, a)
		if err != nil {
			continue // each connection says so
		}
		for _, e := range r.balancer.probable(having, a, most, r.tunnels.used) {
			known := func(b endpoint) bool { return b.uid == e.uid }
			if len(best) < most && !slices.ContainsFunc(best, known) {
				best = append(best, e)
			}
		}
	}
	return best
}

// PodPort is the port at the pod that connections to a port go to now. For a
// service they may differ. Errors: *PortError.
func (r *Route) PodPort(port uint16) (uint16, error) {
	a := r.askedAs(port)
	all, _, _ := r.pods.current()
	having, err := r.having(all, a)
	if err != nil {
		return 0, err
	}
	for _, e := range append(r.balancer.probable(having, a, 1, r.tunnels.used), having...) {
		if number, ok, _ := r.portAt(e, a); ok {
			return number, nil
		}
	}
	return 0, r.noPort(all, a)
}

// noPort says that no pod has the port that is asked for.
func (r *Route) noPort(all []endpoint, a portRef) error {
	service := r.resolved.service.Load()
	if service == nil {
		_, err := podsPorts(all, a).resolve(r.resolved.name, a, false)
		return err
	}
	if _, err := servicePorts(service).resolve(r.resolved.name, a, false); errors.Is(err, ErrNotTCP) {
		return err
	}
	e := &PortError{Target: r.resolved.name, Port: a.String(), Pods: true}
	for _, pod := range all {
		e.Available = append(e.Available, offered(service, pod).names()...)
	}
	slices.Sort(e.Available)
	e.Available = slices.Compact(e.Available)
	return e
}
