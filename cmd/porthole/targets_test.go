package main

import (
	"bytes"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

// That root's containerd is closed is no news to a user of Docker, and that Docker is closed always is.
func TestClosedRuntime(t *testing.T) {
	for engine, want := range map[target.Scheme]bool{target.Containerd: true, target.CRI: true, target.Docker: false, target.Podman: false} {
		if got := closedRuntime(&container.EngineError{Engine: engine, Err: container.ErrEnginePermission}); got != want {
			t.Errorf("%s: %v", engine, got)
		}
	}
	if closedRuntime(&container.EngineError{Engine: target.CRI, Err: container.ErrNoInterface}) {
		t.Error("a runtime that fails in another way")
	}
}

// An engine and a cluster that both fail are told of one after the other: the race detector sees what they share.
func TestCollectTellsOfAll(t *testing.T) {
	t.Setenv("DOCKER_HOST", "nonsense")
	for range 20 {
		var stderr bytes.Buffer
		all := &targeting{config: &kube.Config{Kubeconfig: t.TempDir(), Retries: new(kube.RetryLimiter)}, told: map[string]bool{}, stderr: &stderr}
		engines := &container.Opener{}
		if _, err := all.collect(t.Context(), engines, nil); err != nil {
			t.Fatal(err)
		}
		engines.Close()
		if text := stderr.String(); !strings.Contains(text, "docker") || !strings.Contains(text, "kubeconfig") && !strings.Contains(text, "directory") {
			t.Errorf("told of: %s", text)
		}
	}
}
