package kube

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// port is one that a service or a pod's container declares.
type port struct {
	name     string // or ""
	number   uint16 // 0 in an EndpointSlice that does not restrict it
	protocol corev1.Protocol
}

// ports are all that a target declares.
type ports []port

// find returns the declared port that is asked for, preferring TCP.
func (all ports) find(a portRef) (port, bool) {
	var best port
	for _, q := range all {
		same := a.name != "" && q.name == a.name || a.name == "" && q.number == a.number
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

// tcp are the ports for TCP.
func (all ports) tcp() (some ports) {
	for _, q := range all {
		if q.protocol == corev1.ProtocolTCP {
			some = append(some, q)
		}
	}
	return some
}

// names are the TCP ports for a person.
func (all ports) names() (names []string) {
	for _, q := range all.tcp() {
		switch {
		case q.number == 0:
		case q.name == "":
			names = append(names, strconv.Itoa(int(q.number)))
		default:
			names = append(names, fmt.Sprintf("%s (%d)", q.name, q.number))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// resolve finds the number of a port that is asked for. If all are free, a
// number that is not declared stands for itself.
// Errors: *PortError.
func (all ports) resolve(of string, a portRef, free bool) (uint16, error) {
	q, ok := all.find(a)
	switch {
	case ok && q.protocol != corev1.ProtocolTCP:
		return 0, &PortError{Target: of, Port: a.String(), Protocol: string(q.protocol)}
	case !ok && (!free || a.name != ""):
		return 0, &PortError{Target: of, Port: a.String(), Available: all.names()}
	case !ok:
		return a.number, nil
	}
	return q.number, nil
}
