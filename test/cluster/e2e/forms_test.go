package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/test/cluster"
)

// freePort is one that nobody uses until the test ends, for a program to listen on.
func freePort(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(int(testenv.FreePort(t)))
}

// TestForms holds for every form of a target that its bytes arrive at the right pod and port, and that the lines on
// stdout are kubectl's own.
func TestForms(t *testing.T) {
	needCluster(t)
	for _, form := range []struct{ target, port, answers string }{
		{"solo", "8080", "solo 8080"},
		{"pod/solo", "8080", "solo 8080"},
		{"po/solo", "more", "solo 9090"},
		{"pods/solo", "http", "solo 8080"},
		{"svc/web", "80", "web-.* 8080"},
		{"service/web", "http", "web-.* 8080"},
		{"svc/web", "8081", "web-.* 9090"},
		{"svc/web", "more", "web-.* 9090"},
		{"deploy/web", "8080", "web-.* 8080"},
		{"deployment.apps/web", "more", "web-.* 9090"},
		{"rs/", "8080", "web-.* 8080"},
		{"sts/stateful", "8080", "stateful-0 8080"},
		{"ds/daemon", "http", "daemon-.* 8080"},
		{"job/job", "8080", "job-.* 8080"},
	} {
		t.Run(form.target+" "+form.port, func(t *testing.T) {
			if form.target == "rs/" {
				form.target = strings.TrimPrefix(kubectl(t, t.Context(), "get", "rs", "-l", "app=web", "-o", "name"), "replicaset.apps/")
				form.target = "rs/" + form.target
			}
			local := freePort(t)
			want := stdoutOf(t, startCommand(t, command(c.KubectlPath(), "port-forward", form.target, local+":"+form.port)), local, "")
			got := stdoutOf(t, start(t, "forward", form.target, local+":"+form.port), local, form.answers)
			if got != want {
				t.Errorf("stdout:\n%s\nkubectl's:\n%s", got, want)
			}
		})
	}
}

// TestKubectls holds that the lines are also those of whatever other kubectl this machine has: scripts were written
// for it.
func TestKubectls(t *testing.T) {
	needCluster(t)
	for _, path := range kubectls() {
		version := startCommand(t, command(path, "version", "--client"))
		version.exit(t)
		t.Logf("%s: %s", path, strings.Fields(version.stdout()))
		for _, form := range [][2]string{{"solo", "8080"}, {"svc/web", "http"}, {"deploy/web", "more"}} {
			local := freePort(t)
			want := stdoutOf(t, startCommand(t, command(path, "port-forward", form[0], local+":"+form[1])), local, "")
			got := stdoutOf(t, start(t, "forward", form[0], local+":"+form[1]), local, "")
			if got != want {
				t.Errorf("stdout:\n%s\nthat of %s:\n%s", got, path, want)
			}
		}
	}
}

// stdoutOf is what a program prints for one connection, after which it ends.
func stdoutOf(t *testing.T, p *program, local, answers string) string {
	t.Helper()
	p.await(t, p.stdout, `^Forwarding from \[::1\]`)
	answer := ask(t, "localhost:"+local, "who\n")
	if !regexp.MustCompile("^" + answers).MatchString(answer) {
		t.Errorf("got an answer from %q, want %q", answer, answers)
	}
	p.await(t, p.stdout, "^Handling connection for "+local)
	_ = p.cmd.Process.Signal(os.Interrupt)
	p.exit(t)
	return p.stdout()
}

// TestPlugin holds that kubectl finds the program under its other name.
func TestPlugin(t *testing.T) {
	needCluster(t)
	dir := t.TempDir()
	binary, err := filepath.Abs(porthole)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary, filepath.Join(dir, "kubectl-porthole")); err != nil {
		t.Fatal(err)
	}
	p := startCommand(t, command(c.KubectlPath(), "PATH="+dir+":"+os.Getenv("PATH"), "porthole", "forward", "solo", ":8080"))
	if got := who(t, p.address(t, 0)); got != "solo" {
		t.Errorf("got an answer from %s", got)
	}
	help := startCommand(t, command(filepath.Join(dir, "kubectl-porthole"), "forward", "--help"))
	help.exit(t)
	if !strings.Contains(help.stdout(), "kubectl porthole forward TARGET") {
		t.Errorf("usage: %s", help.stdout())
	}
}

// TestStreams holds which protocol is spoken: WebSocket, or SPDY where the environment says so as to kubectl.
func TestStreams(t *testing.T) {
	ctx := needCluster(t)
	tunnelled := func() string {
		var lines []string
		for line := range strings.Lines(kubectl(t, ctx, "get", "--raw", "/api/v1/nodes/"+cluster.NodeName+"/proxy/metrics")) {
			if strings.HasPrefix(line, "kubelet_websocket_streaming_requests_total") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	for _, spdyOnly := range []bool{false, true} {
		before := tunnelled()
		p := start(t, fmt.Sprintf("KUBECTL_PORT_FORWARD_WEBSOCKETS=%v", !spdyOnly), "forward", "solo", ":8080")
		address := p.address(t, 0)
		wantDownload(t, address, 8<<20)
		wantUpload(t, address, 8<<20)
		p.interrupt(t)
		if same := tunnelled() == before; same != spdyOnly {
			t.Errorf("SPDY only: %v; the node's count of WebSockets:\n%s and before:\n%s", spdyOnly, tunnelled(), before)
		}
	}
}
