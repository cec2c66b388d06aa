package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/test/cluster"
)

// needAgents is needCluster, with an image for agents. It returns the folder of a user's configuration.
func needAgents(t *testing.T) (ctx context.Context, config string) {
	t.Helper()
	agentImage(t)
	return needCluster(t), t.TempDir()
}

// agentCommand is porthole of the user with that configuration.
func agentCommand(config string, args ...string) *exec.Cmd {
	return command(porthole, append([]string{"XDG_CONFIG_HOME=" + config, "forward"}, args...)...)
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
		if text := p.stderr(); strings.Count(text, " goes through ") != 1 {
			t.Errorf("more than one line of the agent: %s", text)
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

// TestAgentSockets reaches Unix sockets of root's, for which an agent takes root's capabilities, and of another user's.
func TestAgentSockets(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, socketsPod("sockets-by-agent"))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/sockets-by-agent", "--timeout=180s")
	eventually(t, patience, "the pod listens", func() bool {
		return kubectl(t, ctx, "logs", "sockets-by-agent", "-c", "first") == "ready" && kubectl(t, ctx, "logs", "sockets-by-agent", "-c", "second") == "ready"
	})
	for container, paths := range map[string][]string{"first": {"/run/root.sock", "/memory/memory.sock"}, "second": {"/var/run/shared/user.sock"}} {
		args := []string{"--container", container, "pod/sockets-by-agent"}
		for _, path := range paths {
			args = append(args, ":"+path)
		}
		p := startByAgent(t, config, args...)
		for i, path := range paths {
			if got := ask(t, p.address(t, i), ""); !strings.HasPrefix(got, "hello from "+path) {
				t.Errorf("%s: %q", path, got)
			}
		}
		p.interrupt(t)
	}
	if all := ephemeral(t, ctx, "sockets-by-agent"); len(all) != 2 {
		t.Errorf("the pod has the containers %v", all)
	}
}

// TestAgentTime holds what the first byte costs: with an agent that is there it takes one more request, the log's.
func TestAgentTime(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, pod("timed", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/timed", "--timeout=180s")
	for _, via := range []string{"stock", "agent", "agent", "stock", "agent", "stock", "agent", "stock"} {
		began := time.Now()
		p := startByAgent(t, config, "--via", via, "pod/timed", ":8080")
		who(t, p.address(t, 0))
		t.Logf("%s: answer after %v", via, time.Since(began))
		p.interrupt(t)
	}
	if all := ephemeral(t, ctx, "timed"); len(all) != 1 {
		t.Errorf("the pod has the containers %v", all)
	}
}

// TestAgentConnections holds that connections through an agent on a stock node are what they are through a node of ours:
// half-close is exact, and a stalled one holds up nobody.
func TestAgentConnections(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, pod("talker", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/talker", "--timeout=180s")
	p := startByAgent(t, config, "--via", "agent", "pod/talker", ":8080")
	address := p.address(t, 0)
	if answer, err := say(address, "late 3\nrequest"); err != nil || answer == "" {
		t.Errorf("an answer to the end of a request: %q, %v", answer, err)
	}
	downloadAfterEnd(t, address)
	uploadAfterGoodbye(t, address)
	wantUpload(t, address, 64<<20)
	early := newEchoer(t, address)
	stalled := dial(t, address)
	if _, err := io.WriteString(stalled, "download 1000000000\n"); err != nil {
		t.Fatal(err)
	}
	awaitStandstill(t, stalled)
	others := []*echoer{early}
	for range 100 {
		others = append(others, newEchoer(t, address))
	}
	wantLively(t, others)
	stalled.Close()
}

// restrictedPods is pods as the profile "restricted" demands it.
var restrictedPods = strings.Replace(strings.Replace(pods, "{", "{securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}, ", 1),
	"name: server,", "name: server, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}},", 1)

// TestAgentRestricted: an agent runs where the profile "restricted" is enforced, and one that is not made for it is
// refused in the words of what refuses it.
func TestAgentRestricted(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, `{apiVersion: v1, kind: Namespace, metadata: {name: guarded, labels: {pod-security.kubernetes.io/enforce: restricted}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: inner, namespace: guarded}, spec: `+restrictedPods+`}
`)
	kubectl(t, ctx, "-n", "guarded", "wait", "--for=condition=Ready", "pod/inner", "--timeout=180s")
	patch := filepath.Join(t.TempDir(), "patch.yaml")
	if err := os.WriteFile(patch, []byte("securityContext: {runAsUser: 0, runAsNonRoot: false}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantAgentFailure(t, config, []string{"-n", "guarded", "--agent-patch", patch, "--via", "agent", "pod/inner", ":8080"},
		`agent in pod inner`, `violates PodSecurity "restricted:latest"`, "hint: --agent-patch FILE")
	for _, args := range [][]string{{"--via", "agent"}, {"--via", "agent", "--container", "server"}} {
		p := startByAgent(t, config, append(args, "-n", "guarded", "pod/inner", ":8080")...)
		if got := who(t, p.address(t, 0)); got != "inner" {
			t.Errorf("got an answer from %s", got)
		}
	}
}

// wantAgentFailure wants one line, with parts, soon.
func wantAgentFailure(t *testing.T, config string, args []string, parts ...string) {
	t.Helper()
	began := time.Now()
	p := startByAgent(t, config, args...)
	if code := p.exit(t); code != 1 {
		t.Errorf("%v: exit status %d", args, code)
	}
	if p.stdout() != "" || strings.Count(p.stderr(), "\n") != 1 {
		t.Errorf("%v: %q and %q", args, p.stdout(), p.stderr())
	}
	wantParts(t, p.stderr(), parts...)
	t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), strings.TrimSpace(p.stderr()))
}

// TestAgentRights: a user with the documented rights has an agent, and one with a right less learns which.
func TestAgentRights(t *testing.T) {
	ctx, _ := needAgents(t)
	apply(t, ctx, pod("owned", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/owned", "--timeout=180s")
	rights := map[string]string{
		"pods":                     `{apiGroups: [""], resources: [pods], verbs: [get]}`,
		"pods/portforward":         `{apiGroups: [""], resources: [pods/portforward], verbs: [create]}`,
		"pods/ephemeralcontainers": `{apiGroups: [""], resources: [pods/ephemeralcontainers], verbs: [patch]}`,
		"pods/log":                 `{apiGroups: [""], resources: [pods/log], verbs: [get]}`,
	}
	for _, missing := range []string{"", "pods", "pods/portforward", "pods/ephemeralcontainers", "pods/log"} {
		t.Run("without "+missing, func(t *testing.T) {
			var rules []string
			for right, rule := range rights {
				if right != missing {
					rules = append(rules, rule)
				}
			}
			user, config := "agents-without-"+strings.ReplaceAll(missing, "/", "-")+"x", t.TempDir()
			kubeconfig := grant(t, ctx, user, strings.Join(rules, ", "))
			args := []string{"--kubeconfig", kubeconfig, "--via", "agent", "pod/owned", ":8080"}
			if missing != "" && missing != "pods/log" {
				verb := map[string]string{"pods": "get", "pods/portforward": "create", "pods/ephemeralcontainers": "patch"}[missing]
				wantAgentFailure(t, config, args, fmt.Sprintf("user %q may not %s %s in namespace default: forbidden", user, verb, missing),
					"kubectl create role porthole-"+verb, " --resource="+missing+" ")
				return
			}
			p := startByAgent(t, config, args...)
			if got := who(t, p.address(t, 0)); got != "owned" {
				t.Errorf("got an answer from %s", got)
			}
			if warned := strings.Contains(p.stderr(), "may not get pods/log"); warned != (missing == "pods/log") {
				t.Errorf("without %q: %s", missing, p.stderr())
			}
			p.interrupt(t)
		})
	}
}

// TestAgentWrong holds what is said where there can be no agent.
func TestAgentWrong(t *testing.T) {
	ctx, config := needAgents(t)
	two := strings.Replace(pods, "containers: [{", `containers: [{name: other, image: "`+serverImage+`", imagePullPolicy: Never, args: [idle]}, {`, 1)
	apply(t, ctx, pod("imageless", pods)+pod("hosted", strings.Replace(strings.Replace(pods, "{", "{hostNetwork: true, ", 1), `ports: [`, `args: [idle], ports: [`, 1))+pod("twins", two))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/imageless", "pod/twins", "--timeout=180s")
	for _, policy := range []string{"Never", "IfNotPresent"} {
		reason := map[string]string{"Never": "not present with pull policy of Never", "IfNotPresent": "no such host"}[policy]
		wantAgentFailure(t, config, []string{"--agent-image", "registry.invalid/no/such:" + strings.ToLower(policy), "--agent-image-pull-policy", policy, "pod/imageless", ":5353/udp"},
			"agent in pod imageless", reason, "registry.invalid/no/such", "hint: ", "--agent-image")
	}
	began := time.Now()
	out, err := command(porthole, "XDG_CONFIG_HOME="+t.TempDir(), "reverse", "--agent-image", "registry.invalid/no/such:reverse", "pod/imageless", "9999").CombinedOutput()
	if took := time.Since(began); err == nil || !strings.Contains(string(out), "no such host") || strings.Contains(string(out), "in vain") {
		t.Errorf("reverse: %v after %v: %s", err, took, out)
	}
	p := startByAgent(t, config, "--via", "agent", "pod/imageless", ":8080") // beside those that cannot run
	who(t, p.address(t, 0))
	p.interrupt(t)
	wantAgentFailure(t, config, []string{"pod/twins", ":/run/x.sock"}, "pod twins has several containers: other, server", "hint: --container NAME")
	wantAgentFailure(t, config, []string{"--container", "third", "pod/twins", ":/run/x.sock"}, "pod twins has no container third, but other, server", "hint: --container NAME")
	p = startByAgent(t, config, "--via", "stock", "pod/twins", ":5353/udp")
	if code := p.exit(t); code != 2 {
		t.Errorf("a UDP port by the stock protocol: exit status %d", code)
	}
	wantParts(t, p.stderr(), "--via stock: it does not carry 5353/udp")
	for end := time.Now().Add(patience); time.Now().Before(end) && kubectl(t, ctx, "get", "pod", "hosted", "-o", "jsonpath={.status.phase}") != "Running"; {
		time.Sleep(100 * time.Millisecond)
	}
	wantAgentFailure(t, config, []string{"--via", "agent", "pod/hosted", ":8080"}, "agent in pod hosted", "it has the network of its node", "hint: ")
}

// TestAgentLostKey: whoever has lost their key gets a second agent, and is told of the first.
func TestAgentLostKey(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, pod("keyed", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/keyed", "--timeout=180s")
	for i, folder := range []string{config, t.TempDir(), config} {
		p := startByAgent(t, folder, "--via", "agent", "pod/keyed", ":8080")
		who(t, p.address(t, 0))
		if told := strings.Contains(p.stderr(), "knows another key"); told != (i == 1) {
			t.Errorf("%d: %s", i, p.stderr())
		}
		p.interrupt(t)
	}
	if all := ephemeral(t, ctx, "keyed"); len(all) != 2 {
		t.Errorf("the pod has the containers %v", all)
	}
	if info, err := os.Stat(filepath.Join(config, "porthole", "agent.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
}

// TestAgentRollout: a new pod gets an agent of its own, and connections wait for it.
func TestAgentRollout(t *testing.T) {
	ctx, config := needAgents(t)
	applyReady(t, ctx, "renewed", 1)
	p := startByAgent(t, config, "--via", "agent", "deploy/renewed", ":8080")
	address := p.address(t, 0)
	first := who(t, address)
	kubectl(t, ctx, "rollout", "restart", "deploy/renewed")
	made, failed := whileRolling(t, ctx, address, first)
	for range 20 {
		if second := who(t, address); second == first {
			t.Errorf("%s answers, which was replaced", second)
		}
	}
	t.Logf("%d connections made meanwhile, %d failed", made, failed)
	if failed > 10 {
		t.Errorf("%d connections failed", failed)
	}
	if n := strings.Count(p.stderr(), "goes through an agent, which was started"); n != 2 {
		t.Errorf("%d agents: %s", n, p.stderr())
	}
	p.interrupt(t)
}

// TestAgentRestart: the API server restarts under an agent's session, which comes back, and the agent is the same.
func TestAgentRestart(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, pod("lasting", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/lasting", "--timeout=180s")
	p := startByAgent(t, config, "--via", "agent", "pod/lasting", ":8080")
	address := p.address(t, 0)
	who(t, address)
	if err := c.Kill(ctx, cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	meanwhile := make(chan string, 1)
	go func() {
		answer, err := say(address, "who\n")
		meanwhile <- fmt.Sprint(answer, err)
	}()
	if err := c.Start(ctx, cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if got := <-meanwhile; !strings.HasPrefix(got, "lasting") {
		t.Errorf("a connection made while the API server was away: %s", got)
	}
	who(t, address)
	p.interrupt(t)
	if all := ephemeral(t, ctx, "lasting"); len(all) != 1 {
		t.Errorf("the pod has the containers %v", all)
	}
}

// TestAgentKilled: an agent that has ended is replaced by another one.
func TestAgentKilled(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, pod("bereft", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/bereft", "--timeout=180s")
	p := startByAgent(t, config, "--via", "agent", "pod/bereft", ":8080")
	address := p.address(t, 0)
	who(t, address)
	for _, pid := range agentProcesses(t, ctx, "bereft") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	eventually(t, patience, "another agent", func() bool {
		answer, err := say(address, "who\n")
		return err == nil && strings.HasPrefix(answer, "bereft")
	})
	p.interrupt(t)
	if all := ephemeral(t, ctx, "bereft"); len(all) != 2 {
		t.Errorf("the pod has the containers %v", all)
	}
}

// agentProcesses are the processes of the agents in a pod, by the keys and ports in their arguments.
func agentProcesses(t *testing.T, ctx context.Context, pod string) (pids []int) {
	t.Helper()
	args := strings.Fields(kubectl(t, ctx, "get", "pod", pod, "-o", "jsonpath={.spec.ephemeralContainers[*].args[1]}"))
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range processes {
		line, _ := os.ReadFile(path)
		for _, listens := range args {
			if strings.Contains(string(line), "\x00--listen\x00"+listens+"\x00") {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) == 0 {
		t.Fatal("the pod has no agent")
	}
	return pids
}

// TestAgentTargets: every kind of target is reached by agents, one in each of its pods.
func TestAgentTargets(t *testing.T) {
	ctx, config := needAgents(t)
	applyReady(t, ctx, "many", 2)
	apply(t, ctx, service("many", "many", ""))
	waitEndpoints(t, ctx, "many")
	p := startByAgent(t, config, "-o", "json", "--via", "agent", "svc/many", ":80")
	address := awaitEvent(t, p, "listening", 1).Listen
	seen := map[string]bool{}
	eventually(t, patience, "both pods have answered", func() bool { seen[who(t, address)] = true; return len(seen) == 2 })
	carriers := map[string]string{} // by pod
	for _, e := range events(t, p) {
		if e.Event == "carried" {
			carriers[e.Pod] = e.Via + " " + e.Container
		}
	}
	for pod := range seen {
		if all := ephemeral(t, ctx, pod); len(all) != 1 || carriers[pod] != "agent "+all[0] {
			t.Errorf("pod %s has %v, and the events say %q", pod, all, carriers[pod])
		}
	}
	p.interrupt(t)

	p = startByAgent(t, config, "--each", "--via", "agent", "deploy/many", ":8080")
	first, second := who(t, p.address(t, 0)), who(t, p.address(t, 1))
	if first == second || !seen[first] || !seen[second] {
		t.Errorf("each pod: %s and %s, want %v", first, second, seen)
	}
	p.interrupt(t)
	file := filepath.Join(t.TempDir(), "forwards.yaml")
	if err := os.WriteFile(file, []byte("forwards: [{target: deploy/many, via: agent, ports: [':8080']}, {target: svc/many, via: agent, ports: [':80']}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = startByAgent(t, config, "-f", file)
	if got := []string{who(t, p.address(t, 0)), who(t, p.address(t, 1))}; !seen[got[0]] || !seen[got[1]] {
		t.Errorf("a file: %v, want %v", got, seen)
	}
	p.interrupt(t)
	for pod := range seen {
		if all := ephemeral(t, ctx, pod); len(all) != 1 {
			t.Errorf("pod %s has %v in the end", pod, all)
		}
	}
}

// TestAgentNetworkAway: while nothing comes through a tunnel, connections wait, and go on when the network is back.
func TestAgentNetworkAway(t *testing.T) {
	ctx, config := needAgents(t)
	apply(t, ctx, pod("remote", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/remote", "--timeout=180s")
	networkAway(t, "remote", func(args ...string) *program { return startByAgent(t, config, append(args, "--via", "agent")...) })
}
