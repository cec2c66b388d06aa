package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/test/cluster"
)

// TestPodGone takes the only pod of a deployment away: connections made before there is another wait for it.
func TestPodGone(t *testing.T) {
	ctx := needCluster(t)
	for name, take := range map[string]func(t *testing.T, ctx context.Context, pod string){
		"deleted": func(t *testing.T, ctx context.Context, pod string) {
			kubectl(t, ctx, "delete", "pod", pod, "--wait=false")
		},
		"evicted": evict,
		"drained": drain,
	} {
		t.Run(name, func(t *testing.T) {
			applyReady(t, ctx, name, 1)
			apply(t, ctx, service(name, name, ""))
			waitEndpoints(t, ctx, name)
			programs := []*program{start(t, "forward", "deploy/"+name, ":8080"), start(t, "forward", "svc/"+name, ":80")}
			first := who(t, programs[0].address(t, 0))
			who(t, programs[1].address(t, 0))
			take(t, ctx, first)
			for _, p := range programs {
				began := time.Now()
				waitSuccessor(t, p.address(t, 0), first)
				t.Logf("the first connection to another pod was served after %v", time.Since(began).Round(time.Millisecond))
				wantToldOnce(t, p)
				p.interrupt(t)
			}
		})
	}
}

// waitSuccessor makes connections until another pod than the first answers. The first may do so until it is known here
// that it ends, and a connection may be on its way to it when it does.
func waitSuccessor(t *testing.T, address, first string) {
	t.Helper()
	failed := 0
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		answer, err := say(address, "who\n")
		switch {
		case err != nil:
			failed++
			t.Logf("a connection failed: %v", err)
		case answer == "":
			t.Error("a connection ended cleanly and had no answer")
		case !strings.HasPrefix(answer, first+" "):
			if failed > 10 { // and not for as long as it runs
				t.Errorf("%d connections failed", failed)
			}
			return
		}
	}
	t.Fatalf("only %s answers", first)
}

// evict asks for a pod's eviction, as whoever makes room on a node does.
func evict(t *testing.T, ctx context.Context, pod string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "eviction.json")
	eviction := `{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "` + pod + `", "namespace": "default"}}`
	if err := os.WriteFile(file, []byte(eviction), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, ctx, "create", "--raw", "/api/v1/namespaces/default/pods/"+pod+"/eviction", "-f", file)
}

// drain empties the node of the pod and of those that are like it. Their successors find no node for a second.
func drain(t *testing.T, ctx context.Context, pod string) {
	t.Helper()
	back := func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "uncordon", cluster.NodeName)
		return err
	}
	t.Cleanup(func() {
		if err := back(context.Background()); err != nil {
			t.Error(err)
		}
	})
	name, _, _ := strings.Cut(pod, "-")
	kubectl(t, ctx, "drain", cluster.NodeName, "--pod-selector=app="+name, "--timeout=180s")
	time.AfterFunc(time.Second, func() { _ = back(ctx) })
}

// TestRollout replaces the only pod of a deployment by one of a new version while connections are made all the time.
func TestRollout(t *testing.T) {
	ctx := needCluster(t)
	applyReady(t, ctx, "rolled", 1)
	for _, target := range []string{"deploy/rolled", "svc/rolled"} {
		t.Run(target, func(t *testing.T) {
			port := 8080
			if strings.HasPrefix(target, "svc/") {
				apply(t, ctx, service("rolled", "rolled", ""))
				waitEndpoints(t, ctx, "rolled")
				port = 80
			}
			p := start(t, "forward", target, fmt.Sprintf(":%d", port))
			address := p.address(t, 0)
			first := who(t, address)
			kubectl(t, ctx, "rollout", "restart", "deploy/rolled")
			made, failed := whileRolling(t, ctx, address, first)
			for range 20 {
				if second := who(t, address); second == first {
					t.Errorf("%s answers, which was replaced", second)
				}
			}
			t.Logf("%d connections made meanwhile, %d failed", made, failed)
			if failed > 10 { // and not for as long as it runs // one may be on its way to the pod that ends
				t.Errorf("%d connections failed", failed)
			}
			wantToldOnce(t, p)
		})
	}
}

// whileRolling makes connections until the old pod is gone, and wants none to end cleanly without an answer.
func whileRolling(t *testing.T, ctx context.Context, address, old string) (made, failed int) {
	t.Helper()
	gone := make(chan error, 1)
	go func() {
		_, err := c.Kubectl(ctx, "wait", "--for=delete", "pod/"+old, "--timeout=180s")
		gone <- err
	}()
	for {
		made++
		answer, err := say(address, "who\n")
		switch {
		case err != nil:
			failed++
			t.Logf("connection %d: %v", made, err)
		case answer == "":
			t.Error("a connection ended cleanly and had no answer")
		}
		select {
		case err := <-gone:
			if err != nil {
				t.Fatal(err)
			}
			return made, failed
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// waitEndpoints waits until a service leads somewhere.
func waitEndpoints(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out := kubectl(t, ctx, "get", "endpointslices", "-l", "kubernetes.io/service-name="+name,
			"-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
		if strings.Contains(out, "true") {
			return
		}
	}
	t.Fatalf("svc/%s has no endpoints", name)
}

// TestCrash has the container end with an error. It is started again in the same pod.
func TestCrash(t *testing.T) {
	ctx := needCluster(t)
	applyReady(t, ctx, "crashing", 1)
	p := start(t, "forward", "deploy/crashing", ":8080")
	address := p.address(t, 0)
	before := who(t, address)
	answer, err := say(address, "crash\n")
	t.Logf("the connection that made it crash: %q, %v", answer, err)
	began := time.Now()
	for {
		answer, err := say(address, "who\n")
		if err == nil && answer != "" {
			break
		}
		if err == nil {
			t.Error("a connection ended cleanly and had no answer")
		}
		if time.Since(began) > patience {
			t.Fatalf("no connection for %v", patience)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("after a crash connections worked again after %v", time.Since(began).Round(time.Millisecond))
	if after := who(t, address); after != before {
		t.Errorf("pod %s is now %s", before, after)
	}
	p.interrupt(t)
}

// TestWaitInVain holds that a connection waits as long as --wait says and no longer, and that why is told.
func TestWaitInVain(t *testing.T) {
	ctx := needCluster(t)
	applyReady(t, ctx, "scaled", 1)
	apply(t, ctx, service("scaled", "scaled", ""))
	waitEndpoints(t, ctx, "scaled")
	programs := []*program{start(t, "forward", "--wait", "2s", "deploy/scaled", ":8080"), start(t, "forward", "--wait", "2s", "svc/scaled", ":80")}
	for i := range programs {
		who(t, programs[i].address(t, 0))
	}
	kubectl(t, ctx, "scale", "deploy/scaled", "--replicas=0")
	kubectl(t, ctx, "wait", "--for=delete", "pod", "-l", "app=scaled", "--timeout=180s")
	for _, p := range programs {
		began := time.Now()
		answer, err := say(p.address(t, 0), "who\n")
		wantReset(t, answer, err)
		if took := time.Since(began); took < 1500*time.Millisecond || took > patience {
			t.Errorf("the connection waited %v", took)
		}
		p.await(t, p.stderr, `^porthole: connection for \d+: .*waited 2s in vain: .*(scaled to 0 replicas|has no pods)`)
	}
	kubectl(t, ctx, "scale", "deploy/scaled", "--replicas=1")
	kubectl(t, ctx, "rollout", "status", "deploy/scaled", "--timeout=180s")
	for i := range programs {
		who(t, programs[i].address(t, 0))
		wantToldOnce(t, programs[i])
	}
}

// wantToldOnce wants one line about the loss, in words that scripts for kubectl know.
func wantToldOnce(t *testing.T, p *program) {
	t.Helper()
	if n := strings.Count(p.stderr(), "lost connection to pod"); n > 1 {
		t.Errorf("told %d times of one loss:\n%s", n, p.stderr())
	}
}

// TestSpread holds how connections to a service are distributed over its pods.
func TestSpread(t *testing.T) {
	needCluster(t)
	for _, way := range []struct {
		args []string
		pods int
	}{
		{[]string{"svc/web", ":80"}, 3},
		{[]string{"--pin", "svc/web", ":80"}, 1},
		{[]string{"svc/sticky", ":80"}, 1},
	} {
		t.Run(strings.Join(way.args, " "), func(t *testing.T) {
			p := start(t, append([]string{"forward"}, way.args...)...)
			counts := map[string]int{}
			for range 30 {
				counts[who(t, p.address(t, 0))]++
			}
			if len(counts) != way.pods {
				t.Errorf("connections per pod: %v", counts)
			}
			for pod, n := range counts {
				if n < 30/way.pods/2 {
					t.Errorf("pod %s had %d of 30", pod, n)
				}
			}
		})
	}
}

// TestScaled holds that a service's connections follow the number of its pods, up and down.
func TestScaled(t *testing.T) {
	ctx := needCluster(t)
	// A pod that ends goes on for two seconds, in which the cluster, busy as it may be, tells everybody.
	apply(t, ctx, strings.NewReplacer("terminationGracePeriodSeconds: 1,", "terminationGracePeriodSeconds: 5,",
		"ports:", "lifecycle: {preStop: {sleep: {seconds: 2}}}, ports:").Replace(deployment("elastic", 1)))
	kubectl(t, ctx, "rollout", "status", "deploy/elastic", "--timeout=180s")
	apply(t, ctx, service("elastic", "elastic", ""))
	waitEndpoints(t, ctx, "elastic")
	p := start(t, "forward", "svc/elastic", ":80")
	address := p.address(t, 0)
	who(t, address)
	for _, replicas := range []int{3, 1} {
		kubectl(t, ctx, "scale", "deploy/elastic", fmt.Sprintf("--replicas=%d", replicas))
		kubectl(t, ctx, "rollout", "status", "deploy/elastic", "--timeout=180s")
		waitAnswering(t, ctx, address, replicas)
	}
	if p.stderr() != "" { // of its pods there was always one
		t.Errorf("stderr: %s", p.stderr())
	}
	p.interrupt(t)
}

// waitAnswering waits until as many pods answer as there should be, in turn, and no other.
func waitAnswering(t *testing.T, ctx context.Context, address string, replicas int) {
	t.Helper()
	var counts map[string]int
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		counts = map[string]int{}
		for range 3 * replicas {
			counts[who(t, address)]++
		}
		there := strings.Fields(kubectl(t, ctx, "get", "pods", "-l", "app=elastic", "-o", "jsonpath={.items[*].metadata.name}"))
		if len(counts) == replicas && len(there) == replicas {
			return
		}
	}
	t.Errorf("%d pods should answer: %v", replicas, counts)
}
