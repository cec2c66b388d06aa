package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"porthole.dev/porthole/internal/target"
)

// port is one that a service or a pod's container declares.
type port struct {
	name     string // or ""
	number   uint16
	protocol corev1.Protocol
}

// ports are all that a target declares.
type ports []port

// find returns the declared port that p means, preferring TCP.
func (all ports) find(p target.Port) (port, bool) {
	var best port
	for _, q := range all {
		same := p.Name != "" && q.name == p.Name || p.Name == "" && q.number == p.Remote
		if same && (best.number == 0 || best.protocol != corev1.ProtocolTCP) {
			best = q
		}
	}
	return best, best.number != 0
}

// named returns the number of the TCP port with a name; a service's only port may have the name "".
func (all ports) named(name string) (uint16, bool) {
	for _, q := range all {
		if q.name == name && q.protocol == corev1.ProtocolTCP {
			return q.number, true
		}
	}
	return 0, false
}

// names are the TCP ports for a person.
func (all ports) names() (names []string) {
	for _, q := range all {
		switch {
		case q.protocol != corev1.ProtocolTCP:
		case q.name == "":
			names = append(names, strconv.Itoa(int(q.number)))
		default:
			names = append(names, fmt.Sprintf("%s (%d)", q.name, q.number))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// resolve fills in the numbers of a port. Only a service has none but those that
// it declares; a pod's container may listen on others too.
// Errors: *PortError.
func (all ports) resolve(of string, p target.Port, declared bool) (target.Port, error) {
	given := cmp.Or(p.Name, strconv.Itoa(int(p.Remote)))
	q, ok := all.find(p)
	switch {
	case ok && q.protocol != corev1.ProtocolTCP:
		return p, &PortError{Target: of, Port: given, Protocol: string(q.protocol)}
	case !ok && (declared || p.Name != ""):
		return p, &PortError{Target: of, Port: given, Have: all.names()}
	case !ok:
		return p, nil
	}
	p.Remote = q.number
	if p.Same {
		p.Local = q.number
	}
	return p, nil
}
