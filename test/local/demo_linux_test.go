package local

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"porthole.dev/porthole/internal/testenv"
)

// shots names the environment variable with the folder to keep screenshots in.
const shots = "PORTHOLE_SHOTS"

const demoURL = `^Open +(http://\S+)`

func TestDemo(t *testing.T) {
	demo := start(t, "demo", "--port", "0")
	url := demo.await(t, demoURL)
	if page := curl(t, url); !strings.Contains(page, "kuard") {
		t.Errorf("the page is %.200q", page)
	}
	browse(t, url)
	demo.interrupt(t)
	if _, err := os.Stat("/sys/class/net/porthole0"); err == nil {
		t.Error("the bridge is still there after Ctrl-C")
	}
}

// A demo that was killed leaves a bridge; the next one starts all the same.
func TestDemoAfterKill(t *testing.T) {
	killed := start(t, "demo", "--port", "0")
	killed.await(t, demoURL)
	if err := killed.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = killed.cmd.Wait()
	next := start(t, "demo", "--port", "0")
	curl(t, next.await(t, demoURL))
	next.interrupt(t)
}

func TestDemoTwice(t *testing.T) {
	first := start(t, "demo", "--port", "0")
	first.await(t, demoURL)
	out, err := exec.Command(porthole, "demo", "--port", "0").CombinedOutput()
	if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "already running") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("a second demo: %v, %q", err, out)
	}
	first.interrupt(t)
}

func curl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("curl", append([]string{"-sSf", "--max-time", "20"}, args...)...).Output()
	if err != nil {
		t.Fatalf("curl %v: %v", args, err)
	}
	return string(out)
}

// browse uses the page as a person does.
func browse(t *testing.T, url string) {
	ctx := browser(t)
	do(t, ctx, chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url))
	if host := text(t, ctx, "#host"); host != "kuard" {
		t.Errorf("the page says that it is on %q", host)
	}
	shot(t, ctx, "demo")

	do(t, ctx,
		chromedp.Click("#tab-dns"),
		chromedp.SetValue("#dns-name", "kuard.default"),
		chromedp.Click("#dns-query"),
		chromedp.WaitVisible("#dns-result"))
	answer := text(t, ctx, "#dns-result")
	if !strings.Contains(answer, "kuard.default.svc.cluster.local.") || !strings.Contains(answer, "NOERROR") {
		t.Errorf("the DNS page answers %q", answer)
	}
	shot(t, ctx, "dns")

	do(t, ctx,
		chromedp.Click("#tab-probes"),
		chromedp.Click("#liveness-fail"),
		chromedp.WaitVisible("[data-probe=liveness][data-state=failing]"))
	// As the kubelet would ask.
	out, err := exec.Command("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url+"/healthy").Output()
	if err != nil || string(out) != "500" {
		t.Errorf("the probe that was made to fail answers %q, %v", out, err)
	}
	do(t, ctx, chromedp.WaitVisible("#liveness-history tbody tr"))
	if history := text(t, ctx, "#liveness-history tbody"); !strings.Contains(history, "500") {
		t.Errorf("the probe's history is %q", history)
	}
	shot(t, ctx, "probes")
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal("in the browser:", err)
	}
}

func text(t *testing.T, ctx context.Context, selector string) string {
	t.Helper()
	s, err := chromedp.Run(ctx, chromedp.Text(selector))
	if err != nil {
		t.Fatalf("in the browser: text of %s: %v", selector, err)
	}
	return s
}

// browser is a headless Chromium that talks to nobody but the page.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		testenv.Lacking(t, "chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// shot keeps a screenshot where shots says, if it does.
func shot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv(shots)
	if dir == "" {
		return
	}
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		t.Error("screenshot:", err)
	}
}
