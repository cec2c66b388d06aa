package e2e

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/test/cluster"
)

// TestSleep stops the program, as a laptop that sleeps does, for longer than a tunnel may be silent. What connects
// after it has woken is served, whatever has happened to the cluster meanwhile.
func TestSleep(t *testing.T) {
	ctx := needCluster(t)
	for name, meanwhile := range map[string]func(t *testing.T, ctx context.Context){
		"alone":     func(*testing.T, context.Context) { time.Sleep(10 * time.Second) },
		"restarted": restartMeanwhile,
	} {
		t.Run(name, func(t *testing.T) {
			programs := []*program{start(t, "forward", "solo", ":8080"), start(t, "forward", "svc/web", ":80")}
			var live []*echoer
			for _, p := range programs {
				e := newEchoer(t, p.address(t, 0))
				if _, err := e.round(); err != nil {
					t.Fatal(err)
				}
				live = append(live, e)
			}
			for _, p := range programs {
				_ = p.cmd.Process.Signal(syscall.SIGSTOP)
			}
			meanwhile(t, ctx)
			for _, p := range programs {
				_ = p.cmd.Process.Signal(syscall.SIGCONT)
			}
			for i, p := range programs {
				began := time.Now()
				who(t, p.address(t, 0))
				t.Logf("the first connection after the sleep took %v", time.Since(began).Round(time.Millisecond))
				_, err := live[i].round()
				t.Logf("the connection that slept, too: %v", err)
				if errors.Is(err, io.EOF) || name == "alone" && err != nil {
					t.Errorf("the connection that slept, too: %v", err)
				}
				wantToldOnce(t, p)
				p.interrupt(t)
			}
		})
	}
}

// restartMeanwhile has the API server crash and come back during a sleep of twenty seconds.
func restartMeanwhile(t *testing.T, ctx context.Context) {
	t.Helper()
	awake := time.After(20 * time.Second)
	if err := c.Kill(ctx, cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx, cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	<-awake
}
