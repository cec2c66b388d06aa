package kube_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"testing"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/testenv"
)

// What was left in a cluster is found by whose it is, and the user's own relays are removed.
func TestClean(t *testing.T) {
	n := newNamespace(t)
	testenv.NoLeaks(t)
	mine, other := t.TempDir(), t.TempDir()
	first := n.startRelay(t, "admin", mine)
	job := n.awaitJob("")
	second := n.startRelay(t, "admin", other)
	agents := &kube.Agents{KeyFile: filepath.Join(mine, "agent.key")}
	key, err := agents.PublicKey()
	if err != nil || key == (pinned.PublicKey{}) {
		t.Fatal(key, err)
	}
	c := n.open(t, "admin", n.name)
	var relays []kube.RelayJob
	testenv.Await(t, "both relays are there", func() bool {
		relays, err = c.Relays(t.Context(), n.name, key)
		return err != nil || len(relays) == 2
	})
	for _, r := range relays {
		if r.Mine != (r.Name == job.Name) {
			t.Errorf("%+v, and mine is %s", r, job.Name)
		}
		if r.Mine {
			if err := c.RemoveRelay(t.Context(), r); err != nil {
				t.Error(err)
			}
			if err := c.RemoveRelay(t.Context(), r); err != nil {
				t.Error("once it is gone:", err)
			}
		}
	}
	for _, now := range n.jobs() {
		if now.UID == job.UID {
			t.Error("it is still there")
		}
	}
	first.cancel()
	second.cancel()
	first.end(t)
	second.end(t)

	n.newReady("web")
	n.must(t, http.MethodPatch, n.path("pods/web/ephemeralcontainers"), object{"spec": object{"ephemeralContainers": []object{
		{"name": "porthole-01234567-1", "image": "a", "args": []string{"--listen", "127.0.0.1:20000", "--client-key", key.String()}},
		{"name": "debugger", "image": "a"}}}})
	found, err := c.AgentContainers(t.Context(), "", key)
	if err != nil || len(found) != 1 || found[0] != (kube.AgentContainer{Namespace: n.name, Pod: "web", Name: "porthole-01234567-1", Mine: true, State: "waiting"}) {
		t.Errorf("%+v, %v", found, err)
	}
	n.grant("poduser", "list pods")
	_, err = n.open(t, "poduser", n.name).Relays(t.Context(), n.name, key)
	var forbidden *kube.ForbiddenError
	if !errors.As(err, &forbidden) || forbidden.Verb != "list" || forbidden.Resource != "jobs.batch" {
		t.Errorf("%v", err)
	}
}

// A user who has never had a relay gets no key by asking for it.
func TestNoKeyYet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.key")
	if key, err := (&kube.Agents{KeyFile: path}).PublicKey(); err != nil || key != (pinned.PublicKey{}) {
		t.Error(key, err)
	}
	if left, _ := filepath.Glob(path); left != nil {
		t.Error("a key was made")
	}
}
