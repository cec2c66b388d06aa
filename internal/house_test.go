// Package internal_test holds the rules of the house: which package may lean on which.
// It knows the packages' names and imports, and nothing of what they do.
package internal_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// ground are packages that carry bytes or words, whatever orchestrates the pods.
var ground = []string{"nonblock", "pipe", "netns", "forward", "target", "backoff", "route", "session", "safetext", "spelling", "container", "manifest", "portforward", "spdy", "trace", "tunnel", "proc", "filelock", "leftovers", "agent", "ssh", "resolver", "pinned", "cri"}

// runtimeAPI is the messages of container runtimes, which know nothing of clusters.
const runtimeAPI = "k8s.io/cri-api/pkg/apis/runtime/"

// TestGroundKnowsNoKubernetes holds that a forwarder without Kubernetes can be built from these.
func TestGroundKnowsNoKubernetes(t *testing.T) {
	for _, name := range ground {
		for _, dep := range dependencies(t, name) {
			if strings.HasPrefix(dep, "k8s.io/") && !strings.HasPrefix(dep, runtimeAPI) || strings.HasPrefix(dep, "sigs.k8s.io/") {
				t.Errorf("internal/%s depends on %s", name, dep)
			}
		}
	}
}

// arrows are the packages that each one may depend on. route and session have no kind of target among theirs.
var arrows = map[string]string{
	"nonblock":  "",
	"pipe":      "nonblock",
	"target":    "",
	"safetext":  "",
	"spelling":  "",
	"kuard":     "",
	"pinned":    "nonblock",
	"proc":      "",
	"filelock":  "",
	"leftovers": "filelock",
	"demo":      "filelock proc",
	"trace":     "",
	"route":     "nonblock pipe target",
	"resolver":  "target",
	"netns":     "backoff nonblock pipe proc resolver route target",
	"backoff":   "",
	"tail":      "",
	"forward":   "backoff nonblock pipe route target",
	"session":   "backoff forward nonblock pipe route target",
	"cri":       "",
	"container": "backoff cri forward netns nonblock pipe proc resolver route spdy spelling ssh tail target tunnel",
	"manifest":  "spelling target",

	"portforward": "backoff forward nonblock pipe spdy route target tunnel",
	"tunnel":      "backoff forward nonblock pipe spdy route target",
	"spdy":        "",
	"agent":       "backoff forward nonblock pinned pipe proc route spdy target tunnel",
	"ssh":         "backoff forward nonblock pipe route spdy tail target tunnel",
	"kube":        "backoff forward nonblock pinned portforward spdy pipe route spelling target tunnel",
	"node":        "backoff cri filelock forward nonblock portforward proc spdy netns pipe resolver route target tunnel",
}

// TestArrows holds that dependencies run one way, from what a person uses down to what moves bytes.
func TestArrows(t *testing.T) {
	for name, may := range arrows {
		for _, dep := range dependencies(t, name) {
			inside, ok := strings.CutPrefix(dep, "porthole.dev/porthole/internal/")
			if ok && inside != name && !strings.Contains(" "+may+" ", " "+inside+" ") {
				t.Errorf("internal/%s depends on internal/%s, and may on %q only", name, inside, may)
			}
		}
	}
}

// TestTunnelsKnowNoHTTP holds that a tunnel runs over any byte stream.
func TestTunnelsKnowNoHTTP(t *testing.T) {
	for _, name := range []string{"tunnel", "spdy"} {
		if slices.Contains(dependencies(t, name), "net/http") {
			t.Errorf("internal/%s depends on net/http", name)
		}
	}
}

// TestArrowsAreComplete holds that no package is missing above, but for the one that only tests use.
func TestArrowsAreComplete(t *testing.T) {
	out, err := exec.Command("go", "list", "porthole.dev/porthole/internal/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, path := range strings.Fields(string(out)) {
		name, inside := strings.CutPrefix(path, "porthole.dev/porthole/internal/")
		if _, ok := arrows[name]; inside && !ok && name != "testenv" {
			t.Errorf("internal/%s is missing", name)
		}
	}
}

// dependencies are all packages that one is built from.
func dependencies(t *testing.T, name string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "porthole.dev/porthole/internal/"+name).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Fields(string(out))
}
