package kube_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

// Where no agent can start until somebody does something, Bind says what at once, and does not wait.
func TestBindWithoutAgent(t *testing.T) {
	n := newNamespace(t)
	n.newReady("web-1")
	n.grant("poduser", "get pods", "create,get pods/portforward")
	for name, test := range map[string]struct {
		file string
		want func(error) bool
	}{
		"no place for a key": {"", func(err error) bool { var agent *kube.AgentError; return errors.As(err, &agent) && agent.Final }},
		"a right less":       {filepath.Join(t.TempDir(), "agent.key"), func(err error) bool { return errors.Is(err, kube.ErrForbidden) }},
	} {
		t.Run(name, func(t *testing.T) {
			j := n.route(t, "poduser", "pod/web-1")
			j.Via, j.Agents = target.ViaAgent, &kube.Agents{Image: "porthole.dev/porthole:test", KeyFile: test.file}
			j.open()
			_, err := j.Bind(t.Context(), target.Endpoint{Network: target.TCP, AddrPort: netip.MustParseAddrPort("127.0.0.1:9100")})
			if errors.Is(err, kube.ErrWaited) || !test.want(err) {
				t.Errorf("%v", err)
			}
		})
	}
}
