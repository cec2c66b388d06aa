package main

import (
	"testing"

	"porthole.dev/porthole/internal/container"
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
