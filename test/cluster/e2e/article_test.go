package e2e

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"porthole.dev/porthole/test/browser"
)

// kuardImage is the image of the book "Kubernetes: Up and Running", under whose name this project's own kuard is
// known to the cluster.
const kuardImage = "gcr.io/kuar-demo/kuard-amd64:1"

// TestArticle replays how port-forwarding was found out about, step by step: the error without socat, the processes
// with it, and neither with Porthole's own way.
func TestArticle(t *testing.T) {
	ctx := needCluster(t)
	if err := c.ImportImage(ctx, kuardImage, porthole, "kuard"); err != nil {
		t.Fatal(err)
	}
	none, both := t.TempDir(), t.TempDir()
	link(t, none, "nsenter")
	link(t, both, "nsenter", "socat")
	n := startNode(t, ctx, "PATH="+none, "--backend", "socat")

	kubectl(t, ctx, "run", "--image="+kuardImage, "kuard")
	t.Cleanup(func() { _, _ = c.Kubectl(context.Background(), "delete", "pod", "kuard", "--now") })
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/kuard", "--timeout=180s")
	wide := kubectl(t, ctx, "get", "pods", "kuard", "-o", "wide")
	t.Log("\n" + wide)
	if !regexp.MustCompile(`kuard +1/1 +Running +0 +\S+ +10\.\d+\.\d+\.\d+ +porthole `).MatchString(wide) {
		t.Errorf("kubectl get pods -o wide:\n%s", wide)
	}

	kubectl(t, ctx, "expose", "pod", "kuard", "--port=8080")
	t.Cleanup(func() { _, _ = c.Kubectl(context.Background(), "delete", "service", "kuard") })

	t.Run("socat not installed", articleNoSocat)
	n.again(t, "PATH="+both, "--backend", "socat")
	t.Run("socat installed", func(t *testing.T) { articleSocat(t, ctx) })
	n.again(t, "PATH="+none)
	t.Run("native", articleNative)
	t.Run("one tunnel", articleOneTunnel)
}

// link makes a folder for PATH with some of the machine's programs.
func link(t *testing.T, dir string, programs ...string) {
	t.Helper()
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("%v; the test needs it", err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// forwardKuard is `kubectl port-forward kuard 8080:8080`, or porthole's, with a local port that is free.
func forwardKuard(t *testing.T, f forwarder) (p *program, url string) {
	t.Helper()
	p = f.start(t, "kuard", ":8080")
	return p, "http://" + p.address(t, 0) + "/"
}

func articleNoSocat(t *testing.T) {
	for _, f := range forwarders() {
		t.Run(f.name, func(t *testing.T) {
			p, url := forwardKuard(t, f)
			client := http.Client{Timeout: 20 * time.Second}
			if resp, err := client.Get(url); err == nil {
				resp.Body.Close()
				t.Error("the page loads")
			}
			line := p.await(t, p.stderr, `^(.*unable to do port forwarding: socat not found\..*)$`)[0]
			t.Log(line)
			if f.isKubectl() && !regexp.MustCompile(`error forwarding port 8080 to pod [0-9a-f]+, uid : unable to do port forwarding: socat not found\.`).MatchString(line) {
				t.Errorf("kubectl says %q", line)
			}
		})
	}
}

func articleSocat(t *testing.T, ctx context.Context) {
	for _, f := range forwarders() {
		t.Run(f.name, func(t *testing.T) {
			trace := traceNsenter(t)
			_, url := forwardKuard(t, f)
			loads(t, url)
			t.Log("\n" + trace.stdout())
			pid := trace.await(t, trace.stdout, `^nsenter +\d+ +\d+ +0 +\S*nsenter -t (\d+) -n \S*socat - TCP4:localhost:8080$`)[0]
			wantPID(t, ctx, pid, "kuard")
			trace.interrupt(t)
		})
	}
}

func articleNative(t *testing.T) {
	for _, f := range forwarders() {
		t.Run(f.name, func(t *testing.T) {
			trace := traceNsenter(t)
			_, url := forwardKuard(t, f)
			page := loads(t, url)
			for _, name := range []string{"kubernetes.default", "kuard"} {
				resolves(t, page, name)
			}
			page.Shot("article-dns")
			trace.interrupt(t)
			if strings.Contains(trace.stdout(), "TCP4:localhost:8080") { // others on this machine may enter their own
				t.Errorf("programs were executed:\n%s", trace.stdout())
			}
		})
	}
}

// articleOneTunnel: each session opens one tunnel, and none that it does not use.
func articleOneTunnel(t *testing.T) {
	for _, f := range []forwarder{{"porthole", porthole, []string{"forward"}}, {"kubectl", c.KubectlPath(), []string{"port-forward"}}} {
		before := metric(t, "porthole_cri_requests_total", `"PortForward"`)
		p, url := forwardKuard(t, f)
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n := metric(t, "porthole_cri_requests_total", `"PortForward"`) - before; n != 1 {
			t.Errorf("%s opened %v tunnels", f.name, n)
		}
		p.interrupt(t)
	}
}

// traceNsenter is the article's execsnoop.
func traceNsenter(t *testing.T) *program {
	t.Helper()
	trace := start(t, "trace", "exec", "-n", "nsenter")
	trace.await(t, trace.stdout, `^PCOMM +PID +PPID +RET +ARGS$`)
	return trace
}

// loads opens the page as a person does.
func loads(t *testing.T, url string) *browser.Page {
	t.Helper()
	page := browser.Open(t, url)
	if host := page.Text("#host"); host != "kuard" {
		t.Errorf("the page says that it is on %q", host)
	}
	page.Shot("article")
	return page
}

// resolves has the page look a name up inside the pod.
func resolves(t *testing.T, page *browser.Page, name string) {
	t.Helper()
	page.Do(
		chromedp.Click("#tab-dns"),
		chromedp.SetValue("#dns-name", name),
		chromedp.Click("#dns-query"),
		chromedp.WaitVisible("#dns-result"))
	var answer string
	eventually(t, 10*time.Second, "an answer about "+name, func() bool {
		answer = page.Text("#dns-result")
		return strings.Contains(answer, name) && strings.Contains(answer, "status:")
	})
	if !strings.Contains(answer, "NOERROR") {
		t.Errorf("the DNS page says of %s:\n%s", name, answer)
	}
}

// wantPID wants a process to live where the pod does: its namespace has the pod's address.
func wantPID(t *testing.T, ctx context.Context, pid, pod string) {
	t.Helper()
	address := kubectl(t, ctx, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
	routes, err := os.ReadFile("/proc/" + pid + "/net/fib_trie")
	if err != nil || !strings.Contains(string(routes), address) {
		t.Errorf("process %s is not in the network namespace of %s with %s: %v", pid, pod, address, err)
	}
}
