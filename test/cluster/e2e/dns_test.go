package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// corefile makes CoreDNS answer on the pod's loopback, from the API server.
const corefile = `.:5353 {
	bind 127.0.0.1
	errors
	kubernetes cluster.local in-addr.arpa {
		kubeconfig /config/kubeconfig
	}
}
`

// TestDNS asks a real CoreDNS, in a pod of a node that runs porthole, over UDP and over TCP.
func TestDNS(t *testing.T) {
	ctx := needCluster(t)
	startNode(t, ctx)
	startCoreDNS(t, ctx)
	want := kubectl(t, ctx, "get", "svc/web", "-o", "jsonpath={.spec.clusterIP}")
	calls := metric(t, "porthole_cri_requests_total", `"PortForward"`)
	p := start(t, "forward", "pod/coredns", ":5353/udp", ":5353")
	udp := strings.TrimSuffix(p.address(t, 0), "/udp")
	eventually(t, patience, "CoreDNS knows the service", func() bool {
		return dig(t, udp, "web.default.svc.cluster.local") == want
	})
	for range 100 {
		if got := dig(t, udp, "web.default.svc.cluster.local"); got != want {
			t.Fatalf("over UDP: %q, want %q", got, want)
		}
	}
	if got := dig(t, p.address(t, 1), "+tcp", "web.default.svc.cluster.local"); got != want {
		t.Errorf("over TCP: %q, want %q", got, want)
	}
	if more := metric(t, "porthole_cri_requests_total", `"PortForward"`) - calls; more < 2 {
		t.Errorf("%v tunnels: datagrams have none of their own", more)
	}
	p.interrupt(t)
}

func startCoreDNS(t *testing.T, ctx context.Context) {
	t.Helper()
	const image = "porthole.dev/e2e-coredns:1"
	if err := c.ImportImage(ctx, image, c.BinaryPath("coredns"), "-conf", "/config/Corefile"); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := c.UserKubeconfig("coredns-pod", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf("---\n{apiVersion: v1, kind: Secret, metadata: {name: coredns}, data: {Corefile: %s, kubeconfig: %s}}\n",
		base64.StdEncoding.EncodeToString([]byte(corefile)), base64.StdEncoding.EncodeToString(text))
	apply(t, ctx, secret+pod("coredns", `{terminationGracePeriodSeconds: 1, automountServiceAccountToken: false,
	volumes: [{name: config, secret: {secretName: coredns}}],
	containers: [{name: coredns, image: "`+image+`", imagePullPolicy: Never, volumeMounts: [{name: config, mountPath: /config}]}]}`))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/coredns", "--timeout=180s")
}

// dig returns the short answer to a query at an address.
func dig(t *testing.T, address string, query ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"@" + host, "-p", port, "+short", "+time=5", "+tries=2"}, query...)
	out, err := exec.CommandContext(t.Context(), "dig", args...).CombinedOutput()
	if err != nil {
		t.Logf("dig %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
