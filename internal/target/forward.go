package target

import (
	"cmp"
	"errors"
	"fmt"
)

// ErrAll means that a forward cannot have All, or Except, and what else it has.
var ErrAll = errors.New("all takes a target of a host, and no ports")

// Forward is one target and the ports of it to make reachable, as an entry of a file
// has them, or a command line. The tags of its fields are the keys of the file.
type Forward struct {
	// Name stands for the forward in messages and variables: a lower-case
	// letter, then such letters, digits and dashes, 63 at most. No two of a
	// file have the same; "" when none was given.
	Name   string `yaml:"name"`
	Target Target `yaml:"target"`
	// Host is where the target is, for targets of a host; the zero value is this one.
	Host Host `yaml:"host"`
	// Context and Namespace are those of Kubernetes, "" for the current ones. They are set only
	// if Target is InCluster, and Pin, Each and Container only if it is an object of Kubernetes.
	Context   string `yaml:"context"`
	Namespace string `yaml:"namespace"`
	// Ports has at least one, unless All is set. Only targets in Kubernetes have ports by name.
	Ports []Port `yaml:"ports"`
	// All forwards every TCP port that listens at the target, now or later, but for those of Except. It is
	// for targets of a host, which are not InCluster.
	All    bool    `yaml:"all"`
	Except PortSet `yaml:"except"`
	// Addresses are what ports without an address of their own listen on, as
	// ParseAddress returns them; localhost alone if none was given.
	Addresses []string `yaml:"address"`
	// Reverse is the way back: the ports are listened on at the target, and lead here.
	Reverse bool `yaml:"-"`
	// Pin asks to stay with the pod that was chosen first.
	Pin bool `yaml:"pin"`
	// Each forwards to each pod of the target by itself; "" to the target as a whole.
	Each Each `yaml:"each"`
	// Via is what carries the connections, to a target that is InCluster or InEngine.
	Via Via `yaml:"via"`
	// Container is the one of each pod whose Unix sockets are meant; "" for none.
	Container string `yaml:"container"`
	// EngineContext is one of docker's contexts or of podman's connections; "" is the current one.
	EngineContext string `yaml:"engineContext"`
	// Member is the name of the one that the forward is for, and Place is its number among
	// the target's, from 0: see For. "" is the target as a whole.
	Member string `yaml:"-"`
	Place  int    `yaml:"-"`
	// Line is where the forward begins in the file, from 1, for later messages.
	Line int `yaml:"-"`
}

// String returns what the forward is called in messages: its member, its name, or else its target.
func (f Forward) String() string { return cmp.Or(f.Member, f.Whole()) }

// CheckPorts reports a port that the target cannot have: a remote host is one host, and its Unix
// sockets are out of reach; on the way back it cannot be listened at, nor can Unix sockets of any target. Errors: ErrPort, ErrReverseTarget.
func (f Forward) CheckPorts() error {
	if f.Reverse && f.Target.Scheme == RemoteHost {
		return fmt.Errorf("%s is no pod, and cannot be listened at: %w", f.Target, ErrReverseTarget)
	}
	for _, p := range f.Ports {
		switch {
		case f.Reverse && p.LocalPath != "":
			return fmt.Errorf("port %q: %s would be listened on there, which takes a port: %w", p, p.LocalPath, ErrPort)
		case f.Target.Scheme != RemoteHost:
		case p.Host != "":
			return fmt.Errorf("port %q: %s is one host, and %s another target: %w", p, f.Target, Target{Scheme: RemoteHost, Name: p.Host}, ErrPort)
		case p.Network == Unix:
			return fmt.Errorf("port %q: a Unix socket of %s cannot be reached: %w", p, f.Target, ErrPort)
		}
	}
	return nil
}

// CheckAll reports what does not go together with All, or takes it. Errors: ErrAll.
func (f Forward) CheckAll() error {
	switch {
	case !f.All && len(f.Except) > 0:
		return fmt.Errorf("except %s: it says which ports all leaves out: %w", f.Except, ErrAll)
	case !f.All:
		return nil
	case f.Target.Scheme.InCluster():
		return fmt.Errorf("all: what listens at %s is not watched: %w", f.Target, ErrAll)
	case len(f.Ports) > 0:
		return fmt.Errorf("all: leave out the port %s, which is among them: %w", f.Ports[0], ErrAll)
	}
	return nil
}

// Whole returns String without a member.
func (f Forward) Whole() string {
	if f.Name == "" && f.Host != (Host{}) {
		return f.Target.String() + " on " + f.Host.String()
	}
	return cmp.Or(f.Name, f.Target.String())
}
