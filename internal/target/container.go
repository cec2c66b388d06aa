package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The errors of containers of an engine.
var (
	// ErrEngineTarget is returned for text that names no container of an engine.
	ErrEngineTarget = errors.New("want docker://NAME, docker://PROJECT/SERVICE, podman://NAME, containerd://[NAMESPACE/]ID or cri://POD")
	// ErrEngineVia is returned for what cannot carry connections to a container of an engine.
	ErrEngineVia = errors.New("want " + strings.Join(EngineVias(), ", "))
	// ErrHostVia is returned for what would have to be chosen on another host.
	ErrHostVia = errors.New("want auto")
	// ErrContainerHere is returned for a container of a pod of another host.
	ErrContainerHere = errors.New("a pod's container can be named for pods of this host only")
	// ErrEngineContext is returned for a context of an engine that has none.
	ErrEngineContext = errors.New("a context is one of docker or podman, and of this host")
)

// maxEngineName is the length of the longest name that is read. Engines have no limit themselves, but domain names do.
const maxEngineName = 253

// parseContainer reads the name of a container as its engine has them:
// NAME, ID or PROJECT/SERVICE for docker and podman, [NAMESPACE/]ID for containerd, [NAMESPACE/]POD or a sandbox' ID for CRI.
func parseContainer(scheme Scheme, s, rest string) (Target, error) {
	rest = strings.TrimSuffix(rest, "/")
	before, name, two := strings.Cut(rest, "/")
	if !two {
		before, name = "", rest
	}
	if !isEngineName(name) || two && !isEngineName(before) {
		return Target{}, fmt.Errorf("target %q: %q is no name of a container: %w", s, rest, ErrEngineTarget)
	}
	if scheme == Docker || scheme == Podman {
		return Target{Scheme: scheme, Name: rest}, nil
	}
	return Target{Scheme: scheme, Namespace: before, Name: name}, nil
}

// isEngineName reports whether s can name a container, a Compose project or service, or a namespace: the engines'
// grammars are [a-zA-Z0-9][a-zA-Z0-9_.-]* or parts of that.
func isEngineName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s != "" && len(s) <= maxEngineName && strings.Trim(s, letters+"_.-") == "" && strings.Contains(letters, s[:1])
}

// Compose splits the name of a target of docker or podman that is a Compose project's service.
func (t Target) Compose() (project, service string, ok bool) {
	if t.Scheme != Docker && t.Scheme != Podman {
		return "", "", false
	}
	return strings.Cut(t.Name, "/")
}

// containerString is String for schemes InEngine.
func (t Target) containerString() string {
	if t.Namespace != "" {
		return string(t.Scheme) + "://" + t.Namespace + "/" + t.Name
	}
	return string(t.Scheme) + "://" + t.Name
}

// checkEngineVia is CheckVia for a container of an engine. On another host, porthole there chooses what carries connections.
func (f Forward) checkEngineVia() error {
	elsewhere := f.Host != Host{}
	switch {
	case !slices.Contains(EngineVias(), f.Via.String()):
		return fmt.Errorf("via %s: %s is no pod: %w", f.Via, f.Target, ErrEngineVia)
	case elsewhere && f.Via != ViaAuto:
		return fmt.Errorf("via %s: porthole on %s chooses what carries connections there: %w", f.Via, f.Host, ErrHostVia)
	case elsewhere && f.Container != "":
		return fmt.Errorf("container %s: porthole on %s looks in all containers of %s: %w", f.Container, f.Host, f.Target, ErrContainerHere)
	}
	return nil
}

// CheckEngine reports a context of an engine that the forward's target does not have, or that another host would have
// to know. Errors: ErrEngineContext.
func (f Forward) CheckEngine() error {
	s := f.Target.Scheme
	switch {
	case f.EngineContext == "":
		return nil
	case s != Docker && s != Podman:
		return fmt.Errorf("engine context %s: %s has none: %w", f.EngineContext, f.Target, ErrEngineContext)
	case f.Host != (Host{}):
		return fmt.Errorf("engine context %s: porthole on %s takes its own: %w", f.EngineContext, f.Host, ErrEngineContext)
	}
	return nil
}
