// Package target parses what a person names: a target such as pid://4947 or svc/web, and ports such as 8080:80.
// It is a leaf: it must not know whether what is named exists, nor how it is reached.
package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Scheme says how a target is to be found.
type Scheme string

// The schemes.
const (
	PID        Scheme = "pid"        // a process, by its number
	NetNS      Scheme = "netns"      // a network namespace that is bound to a path
	Kubernetes Scheme = "kubernetes" // an object of a Kubernetes cluster; a target without a scheme is one
	RemoteHost Scheme = "host"       // a host that a Kubernetes cluster reaches, and this machine maybe not
	Docker     Scheme = "docker"     // a container of a Docker engine
	Podman     Scheme = "podman"     // a container of podman
	Containerd Scheme = "containerd" // a container of containerd
	CRI        Scheme = "cri"        // a pod of a container runtime of Kubernetes, by its node's own interface
)

// InCluster reports whether targets of the scheme are reached through a Kubernetes cluster, which a context and a
// namespace choose.
func (s Scheme) InCluster() bool { return s == Kubernetes || s == RemoteHost }

// InEngine reports whether targets of the scheme are containers of an engine.
func (s Scheme) InEngine() bool { return s == Docker || s == Podman || s == Containerd || s == CRI }

// The errors of targets.
var (
	// ErrUnknown is returned for text that has none of the known forms.
	ErrUnknown = errors.New("unknown form of target")
	// ErrRemoteHost is returned for text that has another form than host://NAME or host://ADDRESS.
	ErrRemoteHost = errors.New("want host://NAME or host://ADDRESS")
	// ErrReverseTarget is returned for a target that cannot be listened at.
	ErrReverseTarget = errors.New("want a pod, service or workload, a container, pid:// or netns://")
)

// Target is one parsed target. Scheme says which field is set.
type Target struct {
	Scheme Scheme
	PID    int    // of PID: at least 1
	Path   string // of NetNS: absolute and clean
	// Resource is the type of the object of Kubernetes as it was typed, in lower
	// case: pod, svc, deployments.apps or deployments.v1.apps.
	Resource string
	// Name is that of the object of Kubernetes, of the remote host, which may be an IP address, or of the container: its
	// ID, the beginning of that, or for docker and podman PROJECT/SERVICE of Compose.
	Name string
	// Namespace is containerd's, or of CRI the pod's; "" for the default, and for whichever the pod is in.
	Namespace string
}

// namedDir is where ip-netns(8) binds the namespaces that it names.
const namedDir = "/run/netns"

// Parse reads pid://NUMBER, netns://NAME or netns:///ABSOLUTE/PATH, POD or RESOURCE/NAME for
// Kubernetes, and host://NAME or host://ADDRESS, with an IPv6 address in brackets, for a host that
// a cluster reaches, and docker://NAME, podman://NAME, containerd://[NAMESPACE/]ID and
// cri://[NAMESPACE/]POD for containers of engines. netns://NAME stands for /run/netns/NAME, where ip-netns(8) puts the namespaces
// that it makes.
func Parse(s string) (Target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case ok && Scheme(scheme) == PID:
		return parsePID(s, rest)
	case ok && Scheme(scheme) == NetNS:
		return parseNetNS(s, rest)
	case ok && Scheme(scheme) == RemoteHost:
		return parseRemoteHost(s, rest)
	case ok && Scheme(scheme).InEngine():
		return parseContainer(Scheme(scheme), s, rest)
	case !ok:
		return parseObject(s)
	}
	return Target{}, fmt.Errorf("target %q: %w", s, ErrUnknown)
}

func parsePID(s, rest string) (Target, error) {
	// 31 bits: the kernel's pid_t is a signed int.
	pid, err := strconv.ParseUint(rest, 10, 31)
	if err != nil || pid == 0 {
		return Target{}, fmt.Errorf("target %q: %q is not a process number", s, rest)
	}
	return Target{Scheme: PID, PID: int(pid)}, nil
}

func parseNetNS(s, rest string) (Target, error) {
	switch {
	case strings.ContainsRune(rest, 0):
		return Target{}, fmt.Errorf("target %q: a path has no NUL byte", s)
	case strings.HasPrefix(rest, "/"):
		return Target{Scheme: NetNS, Path: path.Clean(rest)}, nil
	case rest == "" || rest == "." || rest == ".." || strings.Contains(rest, "/"):
		return Target{}, fmt.Errorf("target %q: %q is neither the name of a namespace nor an absolute path", s, rest)
	}
	return Target{Scheme: NetNS, Path: path.Join(namedDir, rest)}, nil
}

// parseRemoteHost reads a name or an address. A port is no part of it: the ports of all targets
// are said apart from them.
func parseRemoteHost(s, rest string) (Target, error) {
	name := unbracket(strings.TrimSuffix(rest, "/"))
	_, notAddress := netip.ParseAddr(name)
	bare := name == strings.TrimSuffix(rest, "/")
	switch host, port, err := net.SplitHostPort(rest); {
	case name == "":
		return Target{}, fmt.Errorf("target %q has no host: %w", s, ErrRemoteHost)
	case notAddress == nil && bare && strings.Contains(name, ":"):
		return Target{}, fmt.Errorf("target %q: an IPv6 address stands in brackets: %w", s, ErrRemoteHost)
	case notAddress != nil && err == nil && host != "":
		return Target{}, fmt.Errorf("target %q: port %s is said apart from the host: %w", s, port, ErrRemoteHost)
	case notAddress != nil && (!bare || checkHost(name) != nil):
		return Target{}, fmt.Errorf("target %q: %q is no name of a host: %w", s, rest, ErrRemoteHost)
	}
	return Target{Scheme: RemoteHost, Name: name}, nil
}

// String returns a form that Parse reads back to the same Target.
func (t Target) String() string {
	switch {
	case t.Scheme == PID:
		return fmt.Sprintf("pid://%d", t.PID)
	case t.Scheme == Kubernetes:
		return t.Resource + "/" + t.Name
	case t.Scheme == RemoteHost && strings.Contains(t.Name, ":"):
		return "host://[" + t.Name + "]"
	case t.Scheme == RemoteHost:
		return "host://" + t.Name
	case t.Scheme.InEngine():
		return t.containerString()
	case path.Dir(t.Path) == namedDir:
		return "netns://" + path.Base(t.Path)
	}
	return "netns://" + t.Path
}

// parseObject reads NAME or RESOURCE/NAME.
func parseObject(s string) (Target, error) {
	resource, name, typed := strings.Cut(s, "/")
	if !typed {
		resource, name = "pod", s
	}
	resource = strings.ToLower(resource)
	if !isSubdomain(resource) || !isSubdomain(name) {
		return Target{}, fmt.Errorf("target %q: %w", s, ErrUnknown)
	}
	return Target{Scheme: Kubernetes, Resource: resource, Name: name}, nil
}

// isSubdomain reports whether s can name a resource or an object: Kubernetes
// takes domain names of RFC 1123 for both.
func isSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(s string) bool {
	foreign := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	return s != "" && !strings.ContainsFunc(s, foreign) && s[0] != '-' && s[len(s)-1] != '-'
}
