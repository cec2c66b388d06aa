// Package target parses what a person names: a target such as pid://4947 or svc/web, and ports such as 8080:80.
// It is a leaf: it must not know whether what is named exists, nor how it is reached.
package target

import (
	"errors"
	"fmt"
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
)

// ErrUnknown is returned for text that has none of the known forms.
var ErrUnknown = errors.New("unknown form of target")

// Target is one parsed target. Scheme says which field is set.
type Target struct {
	Scheme Scheme
	PID    int    // of PID: at least 1
	Path   string // of NetNS: absolute and clean
	// Resource is the type of the object of Kubernetes as it was typed, in lower
	// case: pod, svc, deployments.apps or deployments.v1.apps.
	Resource string
	Name     string // of the object of Kubernetes
}

// namedDir is where ip-netns(8) binds the namespaces that it names.
const namedDir = "/run/netns"

// Parse reads pid://NUMBER, netns://NAME or netns:///ABSOLUTE/PATH, and POD or
// RESOURCE/NAME for Kubernetes. netns://NAME stands for /run/netns/NAME, where
// ip-netns(8) puts the namespaces that it makes.
func Parse(s string) (Target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case ok && Scheme(scheme) == PID:
		return parsePID(s, rest)
	case ok && Scheme(scheme) == NetNS:
		return parseNetNS(s, rest)
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

// String returns a form that Parse reads back to the same Target.
func (t Target) String() string {
	switch {
	case t.Scheme == PID:
		return fmt.Sprintf("pid://%d", t.PID)
	case t.Scheme == Kubernetes:
		return t.Resource + "/" + t.Name
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
