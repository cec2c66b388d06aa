package e2e

import (
	"strings"
	"testing"
)

// TestContainerRuntime reaches a pod by asking its node's container runtime, without the API server: by the pod's name, which
// is followed to the next pod of that name, and by a container's ID, which is gone for good with it.
func TestContainerRuntime(t *testing.T) {
	ctx := needCluster(t)
	manifest := pod("byruntime", pods)
	apply(t, ctx, manifest)
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/byruntime", "--timeout=180s")
	// What kubectl shows is containerd://ID already, but for containerd's namespace.
	shown := kubectl(t, ctx, "get", "pod", "byruntime", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	id, _ := strings.CutPrefix(shown, "containerd://")

	at := strings.TrimPrefix(c.RuntimeEndpoint(), "unix://")
	byName := start(t, "KUBECONFIG=/none", "CONTAINER_RUNTIME_ENDPOINT="+at, "forward", "cri://byruntime", ":8080")
	byID := start(t, "KUBECONFIG=/none", "CONTAINERD_ADDRESS="+at, "forward", "containerd://k8s.io/"+id, ":8080")
	for _, p := range []*program{byName, byID} {
		if got := who(t, p.address(t, 0)); got != "byruntime" {
			t.Errorf("%q answers", got)
		}
	}
	elsewhere := start(t, "KUBECONFIG=/none", "CONTAINERD_ADDRESS="+at, "forward", shown, ":8080")
	if elsewhere.exit(t) == 0 || !strings.Contains(elsewhere.stderr(), "did you mean containerd://k8s.io/"+id+"?") {
		t.Errorf("without containerd's namespace: %s", elsewhere.stderr())
	}

	kubectl(t, ctx, "delete", "pod", "byruntime")
	byName.await(t, byName.stderr, "reconnecting|waiting")
	if code := byID.exit(t); code != 1 || !strings.Contains(byID.stderr(), " was removed") {
		t.Errorf("the container is removed: exit status %d, %s", code, byID.stderr())
	}
	apply(t, ctx, manifest)
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/byruntime", "--timeout=180s")
	if got := who(t, byName.address(t, 0)); got != "byruntime" {
		t.Errorf("of the next pod %q answers", got)
	}
	byName.interrupt(t)
}
