package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Via says what carries the connections to a target of Kubernetes, beyond its API server, or to a container of an engine.
type Via string

// The values of Via.
const (
	ViaAuto   Via = ""       // whichever of the others can carry what is asked for, the one that takes least first
	ViaStock  Via = "stock"  // what every cluster has: TCP ports of pods
	ViaNode   Via = "node"   // porthole on the pod's node
	ViaAgent  Via = "agent"  // porthole in an ephemeral container of the pod, or in a container beside an engine's
	ViaRelay  Via = "relay"  // porthole in a pod of its own
	ViaNative Via = "native" // sockets made inside the container's network namespace, on this machine
)

// Vias are the values for targets of Kubernetes, as ParseVia reads them.
func Vias() []string {
	return []string{ViaAuto.String(), string(ViaStock), string(ViaNode), string(ViaAgent), string(ViaRelay)}
}

// EngineVias are the values for containers of engines.
func EngineVias() []string {
	return []string{ViaAuto.String(), string(ViaNative), string(ViaAgent)}
}

// ReverseVias are those that can listen in a pod.
func ReverseVias() []string {
	return []string{ViaAuto.String(), string(ViaNode), string(ViaAgent)}
}

// The errors of Via and of containers.
var (
	ErrVia        = errors.New("want " + strings.Join(Vias(), ", "))
	ErrRelayOnly  = errors.New("want auto or relay")
	ErrReverseVia = errors.New("want " + strings.Join(ReverseVias(), ", "))
	ErrViaPort    = errors.New("want auto, node or agent")
	ErrNoSocket   = errors.New("a container is named for Unix sockets, and none of the ports is one")
	ErrContainer  = errors.New("want the name of a container: lower-case letters, digits and dashes between them, 63 at most")
)

// ParseVia reads a value of Via: auto, stock, node, agent, relay or native.
func ParseVia(s string) (Via, error) {
	switch {
	case s == ViaAuto.String():
		return ViaAuto, nil
	case !slices.Contains(Vias(), s) && !slices.Contains(EngineVias(), s):
		return "", fmt.Errorf("%q: %w", s, ErrVia)
	}
	return Via(s), nil
}

// String returns the form that ParseVia reads.
func (v Via) String() string {
	if v == ViaAuto {
		return "auto"
	}
	return string(v)
}

// CheckVia reports what cannot carry connections to the target and its ports: a remote host has neither a pod
// nor a node, only a node and an agent can listen in a pod, the stock protocol carries TCP to pods alone, and a
// relay is not where a pod's Unix sockets are. Errors: ErrVia, ErrEngineVia, ErrHostVia, ErrContainerHere, ErrRelayOnly,
// ErrReverseVia, ErrViaPort, ErrNoSocket.
func (f Forward) CheckVia() error {
	if f.Target.Scheme.InEngine() {
		return f.checkEngineVia()
	}
	if f.Via == ViaNative {
		return fmt.Errorf("via %s: %s is no container of an engine: %w", f.Via, f.Target, ErrVia)
	}
	if f.Reverse && !slices.Contains(ReverseVias(), f.Via.String()) {
		return fmt.Errorf("via %s: it cannot listen in a pod: %w", f.Via, ErrReverseVia)
	}
	if f.Target.Scheme == RemoteHost && f.Via != ViaAuto && f.Via != ViaRelay {
		return fmt.Errorf("via %s: %s is no pod, and only a relay reaches it: %w", f.Via, f.Target, ErrRelayOnly)
	}
	sockets := false
	for _, p := range f.Ports {
		_, beyondStock := p.To().TCPOnly()
		sockets = sockets || p.Network == Unix
		if !f.Reverse && (f.Via == ViaStock && beyondStock != nil || f.Via == ViaRelay && p.Network == Unix) {
			return fmt.Errorf("via %s: it does not carry %s: %w", f.Via, p.To(), ErrViaPort)
		}
	}
	if f.Container != "" && f.Via != ViaAgent && !sockets { // an agent is in the container in any case
		return fmt.Errorf("container %s: %w", f.Container, ErrNoSocket)
	}
	return nil
}

// ParseContainer reads the name of a container of a pod.
func ParseContainer(s string) (string, error) {
	if len(s) > 63 || !isLabel(s) {
		return "", fmt.Errorf("%q: %w", s, ErrContainer)
	}
	return s, nil
}
