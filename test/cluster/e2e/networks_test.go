package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// socketsPod is a pod with Unix sockets of its own, and with some of the node's in it.
func socketsPod(name string) string {
	runtime := strings.TrimPrefix(c.RuntimeEndpoint(), "unix://")
	container := func(name, user, args string) string {
		return fmt.Sprintf(`{name: %s, image: %q, imagePullPolicy: Never, securityContext: {runAsUser: %s}, args: [sockets, %s],
		volumeMounts: [{name: shared, mountPath: /var/run/shared}, {name: memory, mountPath: /memory}, {name: socket, mountPath: /engine.sock},
			{name: folder, mountPath: /folder}, {name: shared, mountPath: /part, subPath: part}]}`, name, serverImage, user, args)
	}
	return pod(name, fmt.Sprintf(`{terminationGracePeriodSeconds: 1, automountServiceAccountToken: false,
	volumes: [{name: shared, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}},
		{name: socket, hostPath: {path: %q, type: Socket}}, {name: folder, hostPath: {path: %q, type: Directory}}],
	containers: [%s, %s]}`, runtime, filepath.Dir(runtime),
		container("first", "0", fmt.Sprintf(`/run/root.sock, /var/run/shared/shared.sock, /memory/memory.sock, /part/part.sock,
			"/link.sock=%[1]s", "/up.sock=../../..%[1]s", "/inside.sock=/engine.sock", "/proc.sock=/proc/1/root/run/root.sock"`, runtime)),
		container("second", "4000", "/var/run/shared/user.sock")))
}

// TestNetworks reaches UDP ports and Unix sockets of pods through a node, and none that is not theirs.
func TestNetworks(t *testing.T) {
	ctx := needCluster(t)
	stockNetworks(t)
	n := startNode(t, ctx, "--allow-unix", "/*,/*/*,/*/*/*,/*/*/*/*")
	apply(t, ctx, socketsPod("sockets"))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/sockets", "--timeout=180s")
	podNetworks(t, ctx, "sockets")
	n.again(t)
	wantRefused(t, "pod/sockets", map[string]string{"/run/root.sock": `--allow-unix`})
}

// stockNetworks: a node without porthole is told of at the start, in one line, and nothing listens.
func stockNetworks(t *testing.T) {
	t.Helper()
	for _, port := range []string{":53/udp", ":/run/x.sock"} {
		p := start(t, "forward", "--via", "node", "pod/solo", port)
		if code := p.exit(t); code != 1 {
			t.Errorf("%s: status %d, want 1", port, code)
		}
		if text := p.stderr(); !strings.Contains(text, "its node does not run porthole") || strings.Count(text, "\n") != 1 || p.stdout() != "" {
			t.Errorf("%s: %q and %q", port, text, p.stdout())
		}
	}
}

// podNetworks reaches what is the pod's own, and nothing else.
func podNetworks(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	eventually(t, patience, "the pod listens", func() bool {
		return kubectl(t, ctx, "logs", name, "-c", "first") == "ready" && kubectl(t, ctx, "logs", name, "-c", "second") == "ready"
	})
	own := []string{"/run/root.sock", "/var/run/shared/shared.sock", "/memory/memory.sock", "/var/run/shared/user.sock"}
	args := []string{"forward", "pod/" + name, ":5353/udp"}
	for _, path := range own {
		args = append(args, ":"+path)
	}
	p := start(t, args...)
	if got := askUDP(t, strings.TrimSuffix(p.address(t, 0), "/udp"), "hello"); got != "hello" {
		t.Errorf("over UDP came %q", got)
	}
	for i, path := range own {
		if got := ask(t, p.address(t, i+1), ""); !strings.HasPrefix(got, "hello from "+path) {
			t.Errorf("%s: %q", path, got)
		}
	}
	p.interrupt(t)
	wantRefused(t, "pod/"+name, map[string]string{
		"/engine.sock": "from outside", "/inside.sock": "from outside", "/folder/containerd.sock": "from outside", "/part/part.sock": "from outside",
		"/link.sock": "no such file", "/up.sock": "no such file", "/proc.sock": "symbolic links|permission denied", "/run/nothing.sock": "no such file",
	})
	for _, network := range []string{"udp", "unix"} {
		if metric(t, "porthole_forwards_total", `network="`+network+`",result="ok"`) == 0 {
			t.Errorf("the node counts no connections of %s", network)
		}
	}
}

// wantRefused wants paths to be refused, each with its reason, and nothing to be read from them.
func wantRefused(t *testing.T, target string, paths map[string]string) {
	t.Helper()
	for path, reason := range paths {
		p := start(t, "forward", target, ":"+path)
		if answer, err := say(p.address(t, 0), ""); answer != "" {
			t.Errorf("%s: came %q, %v", path, answer, err)
		}
		p.await(t, p.stderr, "(?i)"+reason)
		p.interrupt(t)
	}
}

// askUDP sends a datagram and returns what comes back.
func askUDP(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, 1500)
	length, err := conn.Read(answer)
	if err != nil {
		t.Error(err)
	}
	return string(answer[:length])
}
