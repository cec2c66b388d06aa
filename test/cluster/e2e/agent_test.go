package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// agentImage is what agents run: the program under test.
const agentImage = "porthole.dev/e2e-agent:1"

var importAgent sync.Once

// needAgents is needCluster, with an image for agents. It returns the folder of a user's configuration.
func needAgents(t *testing.T) (ctx context.Context, config string) {
	t.Helper()
	ctx = needCluster(t)
	importAgent.Do(func() {
		binary := porthole
		if other := os.Getenv("PORTHOLE_AGENT_BIN"); other != "" {
			binary = other
		}
		if err := c.ImportImage(ctx, agentImage, binary, "agent"); err != nil {
			t.Fatal(err)
		}
	})
	return ctx, t.TempDir()
}

// agentCommand is porthole of the user with that configuration.
func agentCommand(config string, args ...string) *exec.Cmd {
	first := []string{"XDG_CONFIG_HOME=" + config, "forward", "--agent-image", agentImage, "--agent-image-pull-policy", "Never"}
	return command(porthole, append(first, args...)...)
}

func startByAgent(t *testing.T, config string, args ...string) *program {
	t.Helper()
	return startCommand(t, agentCommand(config, args...))
}

// ephemeral are the names of a pod's ephemeral containers.
func ephemeral(t *testing.T, ctx context.Context, pod string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, ctx, "get", "pod", pod, "-o", "jsonpath={.spec.ephemeralContainers[*].name}"))
}

// TestAgentDNS asks a real CoreDNS in a pod of a stock node, over UDP and TCP, by an agent that is used again.
func TestAgentDNS(t *testing.T) {
	ctx, config := needAgents(t)
	startCoreDNS(t, ctx)
	want := kubectl(t, ctx, "get", "svc/web", "-o", "jsonpath={.spec.clusterIP}")
	for _, said := range []string{`port 5353/udp goes through an agent, which was started in pod coredns and stays`, `goes through the agent that is in pod coredns: container`} {
		began := time.Now()
		p := startByAgent(t, config, "pod/coredns", ":5353/udp", ":5353")
		udp := strings.TrimSuffix(p.address(t, 0), "/udp")
		t.Logf("listening after %v", time.Since(began))
		eventually(t, patience, "CoreDNS knows the service", func() bool { return dig(t, udp, "web.default.svc.cluster.local") == want })
		t.Logf("answer after %v", time.Since(began))
		for range 100 {
			if got := dig(t, udp, "web.default.svc.cluster.local"); got != want {
				t.Fatalf("over UDP: %q, want %q", got, want)
			}
		}
		if got := dig(t, p.address(t, 1), "+tcp", "web.default.svc.cluster.local"); got != want {
			t.Errorf("over TCP: %q, want %q", got, want)
		}
		p.await(t, p.stderr, regexp.QuoteMeta(said))
		p.interrupt(t)
		if text := p.stderr(); strings.Count(text, "\n") != 1 {
			t.Errorf("more than one line: %s", text)
		}
	}
	if all := ephemeral(t, ctx, "coredns"); len(all) != 1 {
		t.Errorf("the pod has the containers %v", all)
	}
}

// TestAgentPostgres: psql talks to a PostgreSQL in a pod of a stock node that only listens on a Unix socket.
func TestAgentPostgres(t *testing.T) {
	ctx, config := needAgents(t)
	startPostgres(t, ctx)
	query(t, startByAgent(t, config, "pod/postgres", ":"+postgresSocket))
	query(t, startByAgent(t, config, "--container", "postgres", "pod/postgres", ":"+postgresSocket))
	if all := ephemeral(t, ctx, "postgres"); len(all) != 1 {
		t.Errorf("the pod has the containers %v", all)
	}
}

// TestAgentTime measures how long the first byte takes.
func TestAgentTime(t *testing.T) {
	ctx, config := needAgents(t)
	for _, args := range [][]string{{"--via", "stock"}, {"--via", "agent"}, {"--via", "agent"}, {"--via", "stock"}, {"--via", "agent"}} {
		apply(t, ctx, pod("timed", pods))
		kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/timed", "--timeout=180s")
		began := time.Now()
		p := startByAgent(t, config, append(args, "-v=6", "pod/timed", ":8080")...)
		address := p.address(t, 0)
		listening := time.Since(began)
		who(t, address)
		t.Log(p.stderr())
		t.Logf("%v: listening after %v, answer after %v", args, listening, time.Since(began))
		p.interrupt(t)
	}
}

var _ = fmt.Sprint
var _ = filepath.Join
