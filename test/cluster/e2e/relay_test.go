package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/test/cluster"
)

// relayUser is a user of relays: a folder with their key, and a namespace, as arguments of start.
type relayUser struct {
	environment string
	namespace   string
}

// newRelayUser returns a user with a key of their own, in a namespace that is gone with the test.
func newRelayUser(t *testing.T, ctx context.Context, labels string) relayUser {
	t.Helper()
	agentImage(t)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	apply(t, ctx, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}", name, labels))
	eventually(t, patience, "the namespace has its account", func() bool {
		_, err := c.Kubectl(ctx, "get", "-n", name, "serviceaccount/default")
		return err == nil
	})
	return relayUser{"XDG_CONFIG_HOME=" + t.TempDir(), name}
}

func (u relayUser) start(t *testing.T, args ...string) *program {
	t.Helper()
	return start(t, slices.Concat([]string{u.environment, "forward", "-n", u.namespace}, args)...)
}

// fails wants a line that says why a relay does not start, and no Job that is left.
func (u relayUser) fails(t *testing.T, ctx context.Context, args ...string) string {
	t.Helper()
	line := wantFailure(t, slices.Concat([]string{u.environment, "forward", "-n", u.namespace}, args)...)
	t.Log(line)
	if left := u.jobs(t, ctx); left != "" {
		t.Errorf("left: %s", left)
	}
	return line
}

func (u relayUser) jobs(t *testing.T, ctx context.Context) string {
	t.Helper()
	return kubectl(t, ctx, "get", "-n", u.namespace, "jobs", "-l", "app.kubernetes.io/name=porthole-relay", "-o", "name")
}

// TestRelay reaches what only the cluster does, over UDP and TCP, by one relay for two sessions, of which nothing is
// left a minute after they were killed.
func TestRelay(t *testing.T) {
	ctx := needCluster(t)
	u := newRelayUser(t, ctx, "")
	node, address := c.NodeIP(), kubectl(t, ctx, "get", "svc/web", "-o", "jsonpath={.spec.clusterIP}")
	const name = "web.default.svc.cluster.local"
	began := time.Now()
	p := u.start(t, "host://"+node, ":53/udp", ":53")
	udp := strings.TrimSuffix(p.address(t, 0), "/udp")
	t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, patience, "CoreDNS knows the service", func() bool { return dig(t, udp, name) == address })
	for range 20 {
		if got := dig(t, udp, name); got != address {
			t.Fatalf("over UDP: %q", got)
		}
	}
	if got := dig(t, p.address(t, 1), "+tcp", name); got != address {
		t.Errorf("over TCP: %q", got)
	}
	if n := strings.Count(p.stderr(), "\n"); n != 1 || !strings.Contains(p.stderr(), "connections go through a relay, which was started") {
		t.Errorf("told: %s", p.stderr())
	}
	began = time.Now()
	second := u.start(t, "host://nosuch.default.svc.cluster.local", ":80")
	at := second.address(t, 0)
	t.Logf("with the relay there, ready after %v", time.Since(began).Round(time.Millisecond))
	second.await(t, second.stderr, "through the relay that is there")
	if all := u.jobs(t, ctx); strings.Count(all, "job") != 1 {
		t.Errorf("two sessions have %q", all)
	}
	_, _ = say(at, "who\n")
	second.await(t, second.stderr, "no such host.*hint: ")
	p.kill(t)
	second.kill(t)
	killed := time.Now()
	eventually(t, patience, "the relay is gone", func() bool { return u.jobs(t, ctx) == "" })
	if took := time.Since(killed); took < 50*time.Second {
		t.Errorf("the relay has ended after %v: somebody may come back", took)
	} else {
		t.Logf("the relay is gone %v after its last client was killed", took.Round(time.Second))
	}
	if left := kubectl(t, ctx, "get", "-n", u.namespace, "pods", "-o", "name"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestRelayServices reaches services without pods of their own, and whatever is asked for, as their clients in the
// cluster do.
func TestRelayServices(t *testing.T) {
	ctx := needCluster(t)
	u := newRelayUser(t, ctx, "")
	apply(t, ctx, fmt.Sprintf(`
{apiVersion: v1, kind: Service, metadata: {name: headless, namespace: %[1]s}, spec: {clusterIP: None,
	ports: [{name: dns, port: 5353, targetPort: 53, protocol: UDP}, {name: dns-tcp, port: 5353, targetPort: 53}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bare, namespace: %[1]s}, spec: {ports: [{name: who, port: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: metadata, namespace: %[1]s}, spec: {type: ExternalName, externalName: 169-254-169-254.default.pod.cluster.local}}
---
{apiVersion: v1, kind: Service, metadata: {name: elsewhere, namespace: %[1]s}, spec: {type: ExternalName, externalName: headless.%[1]s.svc.cluster.local}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: headless, namespace: %[1]s, labels: {kubernetes.io/service-name: headless}},
	addressType: IPv4, endpoints: [{addresses: ["%[2]s"]}], ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}
`, u.namespace, c.NodeIP()))
	web := kubectl(t, ctx, "get", "svc/web", "-o", "jsonpath={.spec.clusterIP}")
	const name = "web.default.svc.cluster.local"
	t.Run("headless", func(t *testing.T) {
		p := u.start(t, "svc/headless", ":dns/udp", ":dns-tcp")
		eventually(t, patience, "an answer", func() bool { return dig(t, strings.TrimSuffix(p.address(t, 0), "/udp"), name) == web })
		if got := dig(t, p.address(t, 1), "+tcp", name); got != web {
			t.Errorf("over TCP: %q", got)
		}
		p.await(t, p.stderr, "svc/headless: connections go through a relay, which was started")
	})
	t.Run("ExternalName", func(t *testing.T) {
		p := u.start(t, "svc/elsewhere", ":53/udp")
		eventually(t, patience, "an answer", func() bool { return dig(t, strings.TrimSuffix(p.address(t, 0), "/udp"), name) == web })
		p.await(t, p.stderr, "svc/elsewhere: connections go through the relay that is there")
	})
	t.Run("cluster IP", func(t *testing.T) {
		address := kubectl(t, ctx, "get", "-n", u.namespace, "svc/bare", "-o", "jsonpath={.spec.clusterIP}")
		addAddress(t, address)
		serveAt(t, address+":8080")
		p := u.start(t, "svc/bare", ":who")
		if got := ask(t, p.address(t, 0), "x"); got != "here" {
			t.Errorf("got %q", got)
		}
		wantParts(t, wantFailure(t, u.environment, "forward", "-n", u.namespace, "svc/bare", ":81"), "svc/bare has no port 81, but who (8080)")
	})
	t.Run("link-local", func(t *testing.T) {
		p := u.start(t, "svc/metadata", ":80")
		_, _ = say(p.address(t, 0), "x")
		p.await(t, p.stderr, "names may not lead to.*hint: .*link-local")
		named := u.start(t, "host://169-254-169-254.default.pod.cluster.local", ":80")
		_, _ = say(named.address(t, 0), "x")
		named.await(t, named.stderr, "names may not lead to")
		literal := u.start(t, "--verbose", "host://169.254.169.254", ":80")
		_, _ = say(literal.address(t, 0), "x")
		literal.await(t, literal.stderr, "connection for")
		if strings.Contains(literal.stderr(), "may not lead to") {
			t.Errorf("what was typed is refused: %s", literal.stderr())
		}
	})
	t.Run("asked for", func(t *testing.T) {
		apply(t, ctx, pod("open", fmt.Sprintf(`{terminationGracePeriodSeconds: 1, containers: [{name: kuard, image: "%s", command: [/porthole, kuard, --address, ":8080"],
			ports: [{name: http, containerPort: 8080}]}]}`, agentImage(t))))
		kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/open", "--timeout=180s")
		relayed := relayUser{u.environment, "default"}
		p := relayed.start(t, "--via", "relay", "pod/open", ":http")
		eventually(t, patience, "an answer", func() bool {
			answer, _ := say(p.address(t, 0), "GET /healthy HTTP/1.0\r\n\r\n")
			return strings.Contains(answer, "200 OK")
		})
		wantParts(t, wantFailure(t, u.environment, "forward", "--via", "relay", "deploy/web", ":80"), "a relay leads to ports of services, pods and hosts")
	})
}

// addAddress gives the node the address of a service, for the load balancing that this cluster lacks.
func addAddress(t *testing.T, address string) {
	t.Helper()
	ip := func(verb string) {
		if out, err := exec.Command("ip", "addr", verb, address+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Errorf("ip addr %s: %v: %s", verb, err, out)
		}
	}
	ip("add")
	t.Cleanup(func() { ip("del") })
}

// serveAt answers "here" at an address of the node, and returns it.
func serveAt(t *testing.T, address string) string {
	t.Helper()
	return testenv.Serve(t, "tcp", address, func(conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn) // what is not read would end it with a reset
		fmt.Fprintln(conn, "here")
	}).Addr().String()
}

// serveOnNode is serveAt for any port, and the arguments of forward that lead to it.
func serveOnNode(t *testing.T) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(serveAt(t, c.NodeIP()+":0"))
	if err != nil {
		t.Fatal(err)
	}
	return []string{"host://" + host, ":" + port}
}

// TestRelayRestricted starts a relay where the profile `restricted` is enforced, with a patch.
func TestRelayRestricted(t *testing.T) {
	ctx := needCluster(t)
	u := newRelayUser(t, ctx, "pod-security.kubernetes.io/enforce: restricted")
	server := serveOnNode(t)
	patch := filepath.Join(t.TempDir(), "patch.yaml")
	const text = "{metadata: {labels: {team: a}}, spec: {tolerations: [{operator: Exists}], containers: [{name: relay, resources: {limits: {memory: 64Mi}}}]}}"
	if err := os.WriteFile(patch, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := u.start(t, append([]string{"--relay-patch", patch}, server...)...)
	if got := ask(t, p.address(t, 0), "x"); got != "here" {
		t.Errorf("answer %q", got)
	}
	got := kubectl(t, ctx, "get", "-n", u.namespace, "pods", "-l", "team=a", "-o", "jsonpath={.items[*].spec.containers[*].resources.limits.memory}")
	if got != "64Mi" {
		t.Errorf("the patch is not there: %q", got)
	}
	p.interrupt(t)
}

// TestRelayUsers has the relays of two users side by side, of which each can remove their own, once nobody uses it.
func TestRelayUsers(t *testing.T) {
	ctx := needCluster(t)
	first := newRelayUser(t, ctx, "")
	second := relayUser{"XDG_CONFIG_HOME=" + t.TempDir(), first.namespace}
	server := serveOnNode(t)
	var programs []*program
	for _, u := range []relayUser{first, second} {
		p := u.start(t, server...)
		programs = append(programs, p)
		if got := ask(t, p.address(t, 0), "x"); got != "here" {
			t.Errorf("answer %q", got)
		}
	}
	if all := first.jobs(t, ctx); strings.Count(all, "job") != 2 {
		t.Errorf("two users have %q", all)
	}
	clean := func(args ...string) string {
		t.Helper()
		p := start(t, append([]string{first.environment, "clean", "-n", first.namespace}, args...)...)
		if code := p.exit(t); code != 0 {
			t.Errorf("exit status %d: %s", code, p.stderr())
		}
		return p.stdout()
	}
	wantParts(t, clean(), "a running porthole uses it", "it belongs to another user")
	programs[0].kill(t)
	wantParts(t, clean("--dry-run"), "would remove relay porthole-relay-", "in namespace "+first.namespace, "it belongs to another user")
	wantParts(t, clean("-o", "json"), `"kind":"relay"`, `"removed":true`, `"removed":false`)
	eventually(t, patience, "one relay is left", func() bool { return strings.Count(first.jobs(t, ctx), "job") == 1 })
	nobody := grant(t, ctx, "nobody-cleans", "")
	p := start(t, first.environment, "clean", "--kubeconfig", nobody, "-A")
	if code := p.exit(t); code != 1 {
		t.Errorf("exit status %d", code)
	}
	wantParts(t, p.stderr(), "may not list jobs.batch", "may not list pods", "kubectl create clusterrole")
}

// TestRelayComesBack removes the relay's pod, and then the API server: connections wait meanwhile.
func TestRelayComesBack(t *testing.T) {
	ctx := needCluster(t)
	u := newRelayUser(t, ctx, "")
	server := serveOnNode(t)
	p := u.start(t, server...)
	ask(t, p.address(t, 0), "x")
	kubectl(t, ctx, "delete", "-n", u.namespace, "pods", "--all", "--wait=false")
	p.await(t, p.stderr, "lost connection, reconnecting")
	if got := ask(t, p.address(t, 0), "x"); got != "here" {
		t.Errorf("after the pod's end: %q", got)
	}
	p.await(t, p.stderr, "connected again")
	t.Cleanup(func() {
		if err := c.Start(context.Background(), cluster.APIServer); err != nil {
			t.Error(err)
		}
		if err := c.WaitReady(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := c.Kill(ctx, cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	p.await(t, p.stderr, "(?s)connected again.*lost connection, reconnecting")
	answer := make(chan string, 1)
	go func() {
		got, err := say(p.address(t, 0), "x")
		answer <- fmt.Sprint(got, err)
	}()
	startUntilServed(t, ctx, cluster.APIServer)
	if got := <-answer; !strings.HasPrefix(got, "here") {
		t.Errorf("a connection made meanwhile: %s", got)
	}
}

// TestRelayRefused holds what is said where no relay can be, and that nothing stays behind.
func TestRelayRefused(t *testing.T) {
	ctx := needCluster(t)
	t.Run("image", func(t *testing.T) {
		u := newRelayUser(t, ctx, "")
		wantParts(t, u.fails(t, ctx, "--agent-image", "registry.invalid/no/such:1", "host://db", ":5432"), "container relay", "registry.invalid", "--agent-image")
	})
	t.Run("pods", func(t *testing.T) {
		u := newRelayUser(t, ctx, "")
		quota(t, ctx, u.namespace, "pods")
		wantParts(t, u.fails(t, ctx, "host://db", ":5432"), "gets no pod", "exceeded quota")
	})
	t.Run("jobs", func(t *testing.T) {
		u := newRelayUser(t, ctx, "")
		quota(t, ctx, u.namespace, "count/jobs.batch")
		wantParts(t, u.fails(t, ctx, "host://db", ":5432"), "the cluster refuses it", "exceeded quota")
	})
	t.Run("ending", func(t *testing.T) {
		u := newRelayUser(t, ctx, "")
		apply(t, ctx, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: keeps, namespace: %s, finalizers: [test.porthole.dev/wait]}}", u.namespace))
		kubectl(t, ctx, "delete", "--wait=false", "namespace/"+u.namespace)
		wantParts(t, u.fails(t, ctx, "host://db", ":5432"), "the namespace is being deleted")
		kubectl(t, ctx, "patch", "-n", u.namespace, "configmap/keeps", "--type=merge", "-p", `{"metadata": {"finalizers": null}}`)
	})
	t.Run("nowhere", func(t *testing.T) {
		line := wantFailure(t, "XDG_CONFIG_HOME="+t.TempDir(), "forward", "-n", "nosuch", "host://db", ":5432")
		wantParts(t, line, "there is no namespace nosuch")
	})
}

// quota allows none of something in a namespace.
func quota(t *testing.T, ctx context.Context, namespace, what string) {
	t.Helper()
	apply(t, ctx, fmt.Sprintf(`{apiVersion: v1, kind: ResourceQuota, metadata: {name: none, namespace: %s}, spec: {hard: {"%s": "0"}}}`, namespace, what))
	eventually(t, patience, "the quota counts", func() bool {
		return kubectl(t, ctx, "get", "-n", namespace, "resourcequota/none", "-o", "jsonpath={.status.hard}") != ""
	})
}

// relayRules are what a user needs for a relay, and no more.
var relayRules = []struct{ verb, resource, rule string }{
	{"get", "jobs.batch", `{apiGroups: [batch], resources: [jobs], verbs: [get]}`},
	{"create", "jobs.batch", `{apiGroups: [batch], resources: [jobs], verbs: [create]}`},
	{"list", "pods", `{apiGroups: [""], resources: [pods], verbs: [list]}`},
	{"get", "pods/log", `{apiGroups: [""], resources: [pods/log], verbs: [get]}`},
	{"create", "pods/portforward", mayForward},
}

// TestRelayRights holds what docs/kubernetes.md lists, for a user with all of it and for one with each right less.
func TestRelayRights(t *testing.T) {
	ctx := needCluster(t)
	agentImage(t)
	server := serveOnNode(t)
	for without := -1; without < len(relayRules); without++ {
		name, rules := "all", []string{}
		for i, r := range relayRules {
			if i == without {
				name = "without " + r.verb + " " + r.resource
			} else {
				rules = append(rules, r.rule)
			}
		}
		t.Run(name, func(t *testing.T) {
			u := relayUser{"XDG_CONFIG_HOME=" + t.TempDir(), "default"}
			kubeconfig := grant(t, ctx, fmt.Sprintf("relayed-%d", without+1), strings.Join(rules, ", "))
			args := append([]string{"--kubeconfig", kubeconfig}, server...)
			if without < 0 || relayRules[without].resource == "pods/log" {
				p := u.start(t, args...)
				ask(t, p.address(t, 0), "x")
				if warned := strings.Contains(p.stderr(), "may not get pods/log"); warned != (without >= 0) {
					t.Errorf("stderr: %s", p.stderr())
				}
				return
			}
			r := relayRules[without]
			line := wantFailure(t, slices.Concat([]string{u.environment, "forward"}, args)...)
			wantParts(t, line, fmt.Sprintf("may not %s %s in namespace default", r.verb, r.resource), "kubectl create role")
		})
	}
}
