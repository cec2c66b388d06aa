package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/test/cluster"
)

// TestRestart ends parts of the cluster, as a crash would, and starts them again: the session comes back by itself.
func TestRestart(t *testing.T) {
	ctx := needCluster(t)
	for _, name := range []cluster.Component{cluster.APIServer, cluster.Kubelet, cluster.Containerd} {
		t.Run(string(name), func(t *testing.T) { restart(t, ctx, name) })
	}
}

func restart(t *testing.T, ctx context.Context, name cluster.Component) {
	t.Cleanup(func() {
		if err := c.Start(context.Background(), name); err != nil {
			t.Error(err)
		}
		if err := c.WaitReady(context.Background()); err != nil {
			t.Error(err)
		}
	})
	programs := map[string]*program{
		"pod/solo":   start(t, "forward", "pod/solo", ":8080"),
		"deploy/web": start(t, "forward", "deploy/web", ":8080"),
		"svc/web":    start(t, "forward", "svc/web", ":80"),
	}
	addresses := map[string]string{}
	for target, p := range programs {
		addresses[target] = p.address(t, 0)
		who(t, addresses[target])
	}
	if err := c.Kill(ctx, name); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if name == cluster.Containerd {
		// The API server does not tell of the runtime's end until a tunnel is
		// used. The connection that finds out is opened again, waits as those after it do,
		// and is reset when that was in vain.
		for target, address := range addresses {
			findOut(t, address, map[bool]int{true: 3, false: 1}[target == "svc/web"])
		}
	}
	var meanwhile sync.WaitGroup
	var mu sync.Mutex
	first := map[string]time.Time{} // when the first connection had its answer
	for target, address := range addresses {
		for range 5 {
			meanwhile.Go(func() {
				answer, err := say(address, "who\n")
				if err != nil || answer == "" {
					t.Errorf("a connection made while %s was away: %s: %q, %v", name, target, answer, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if first[target].IsZero() {
					first[target] = time.Now()
				}
			})
		}
	}
	back := startUntilServed(t, ctx, name)
	meanwhile.Wait()
	for target, p := range programs {
		if first[target].IsZero() {
			continue // told above
		}
		after := first[target].Sub(back)
		t.Logf("%s: %s: connections went through %v after the route was back", name, target, after.Round(time.Millisecond))
		if after > 10*time.Second { // one, and much for a machine that has else to do
			t.Errorf("%s: too late by %v", target, after-time.Second)
		}
		who(t, addresses[target])
		// The node does not tell of containerd's end: that may be over before it is noticed.
		if n := strings.Count(p.stderr(), "lost connection to pod, reconnecting"); n > 1 || n == 0 && name != cluster.Containerd {
			t.Errorf("%s: told %d times of the loss:\n%s", target, n, p.stderr())
		}
	}
}

// findOut makes a connection for each of the pods, which ends their tunnels, and wants none to end as if it were served.
func findOut(t *testing.T, address string, pods int) {
	t.Helper()
	for range pods {
		answer, err := say(address, "who\n")
		t.Logf("the connection that finds out: %q, %v", answer, err)
		if answer == "" && err == nil {
			t.Error("a loss that looks like an end")
		}
	}
}

// startUntilServed starts a component and returns when a program that starts afresh could forward: the route is back.
func startUntilServed(t *testing.T, ctx context.Context, name cluster.Component) time.Time {
	t.Helper()
	if err := c.Start(ctx, name); err != nil {
		t.Fatal(err)
	}
	if name != cluster.APIServer {
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return time.Now()
}
