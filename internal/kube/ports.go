package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"porthole.dev/porthole/internal/target"
)

// portRef is a port as the user asked for it: by its name, or else by its number.
// The zero value stands for any port.
type portRef struct {
	name   string
	number uint16
}

func refTo(p target.Port) portRef {
	if p.Name != "" {
		return portRef{name: p.Name}
	}
	return portRef{number: p.Remote}
}

func (ref portRef) String() string { return cmp.Or(ref.name, strconv.Itoa(int(ref.number))) }

// port is one that a service or a pod's container declares.
type port struct {
	name     string // or ""
	number   uint16 // 0 in an EndpointSlice that allows any number
	protocol corev1.Protocol
	target   intstr.IntOrString // of a service's port: its name or number at the pods
}

// ports are all the ports that a service or a pod declares.
type ports []port

// find returns the port that ref stands for, preferring TCP.
func (all ports) find(ref portRef) (port, bool) {
	var best port
	for _, p := range all {
		same := ref.name != "" && p.name == ref.name || ref.name == "" && p.number == ref.number
		if same && (best.number == 0 || best.protocol != corev1.ProtocolTCP) {
			best = p
		}
	}
	return best, best.number != 0
}

// named returns the TCP port with a name, which is "" for a service's only port.
func (all ports) named(name string) (port, bool) {
	for _, p := range all.tcp() {
		if p.name == name {
			return p, true
		}
	}
	return port{}, false
}

func (all ports) tcp() (some ports) {
	for _, p := range all {
		if p.protocol == corev1.ProtocolTCP {
			some = append(some, p)
		}
	}
	return some
}

// describe lists the TCP ports for a person.
func (all ports) describe() (texts []string) {
	for _, p := range all.tcp() {
		switch {
		case p.number == 0:
		case p.name == "":
			texts = append(texts, strconv.Itoa(int(p.number)))
		default:
			texts = append(texts, fmt.Sprintf("%s (%d)", p.name, p.number))
		}
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// numberOf returns the number of the port that ref stands for; owner is named in
// errors. With undeclared, a number need not be declared. Errors: *PortError.
func (all ports) numberOf(ref portRef, owner string, undeclared bool) (uint16, error) {
	p, ok := all.find(ref)
	switch {
	case ok && p.protocol != corev1.ProtocolTCP:
		return 0, &PortError{Target: owner, Port: ref.String(), Protocol: string(p.protocol)}
	case ok:
		return p.number, nil
	case undeclared && ref.name == "":
		return ref.number, nil
	}
	return 0, &PortError{Target: owner, Port: ref.String(), Available: all.describe()}
}
