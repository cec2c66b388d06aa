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
	network target.Network // TCP or UDP
	name    string
	number  uint16
}

// refTo is what a pod needs to have for a port: any pod reaches Unix sockets and hosts.
func refTo(p target.Port) portRef {
	switch {
	case p.Network == target.Unix || p.Host != "":
		return portRef{}
	case p.Name != "":
		return portRef{network: p.Network, name: p.Name}
	}
	return portRef{network: p.Network, number: p.Remote}
}

func (ref portRef) String() string { return cmp.Or(ref.name, strconv.Itoa(int(ref.number))) }

func (ref portRef) protocol() corev1.Protocol {
	if ref.network == target.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

// port is one that a service or a pod's container declares.
type port struct {
	name     string // or ""
	number   uint16 // 0 in an EndpointSlice that allows any number
	protocol corev1.Protocol
	target   intstr.IntOrString // of a service's port: its name or number at the pods
}

// ports are all the ports that a service or a pod declares.
type ports []port

// find returns the port that ref stands for, or one of another protocol that is called the same.
func (all ports) find(ref portRef) (port, bool) {
	var best port
	for _, p := range all {
		same := ref.name != "" && p.name == ref.name || ref.name == "" && p.number == ref.number
		if same && (best.number == 0 || best.protocol != ref.protocol()) {
			best = p
		}
	}
	return best, best.number != 0
}

// named returns the port with a name, which is "" for a service's only port.
func (all ports) named(name string, protocol corev1.Protocol) (port, bool) {
	for _, p := range all.of(protocol) {
		if p.name == name {
			return p, true
		}
	}
	return port{}, false
}

// of returns the ports of a protocol.
func (all ports) of(protocol corev1.Protocol) (some ports) {
	for _, p := range all {
		if p.protocol == protocol {
			some = append(some, p)
		}
	}
	return some
}

// describe lists the ports of a protocol for a person.
func (all ports) describe(protocol corev1.Protocol) (texts []string) {
	for _, p := range all.of(protocol) {
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
	case ok && p.protocol != ref.protocol():
		return 0, &PortError{Target: owner, Port: ref.String(), Protocol: string(p.protocol), Wanted: string(ref.protocol())}
	case ok:
		return p.number, nil
	case undeclared && ref.name == "":
		return ref.number, nil
	}
	return 0, &PortError{Target: owner, Port: ref.String(), Available: all.describe(ref.protocol())}
}
