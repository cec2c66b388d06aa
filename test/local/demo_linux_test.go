package local

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/test/browser"
)

const demoURL = `^Open +(http://\S+)`

func TestDemo(t *testing.T) {
	demo := start(t, "demo", "--port", "0")
	url := demo.await(t, demoURL)
	if page := curl(t, url); !strings.Contains(page, "kuard") {
		t.Errorf("the page is %.200q", page)
	}
	tryPrinted(t, demo)
	browse(t, url)
	demo.interrupt(t)
	if _, err := os.Stat("/sys/class/net/porthole0"); err == nil {
		t.Error("the bridge is still there after Ctrl-C")
	}
}

// tryPrinted does what the demo says that a person may do, as it stands: nothing is installed, and root is who is here.
func tryPrinted(t *testing.T, demo *program) {
	t.Helper()
	byHand := demo.await(t, `^The same by hand +(.+)`)
	inside, outside := demo.await(t, `^Look inside +(.+)`), demo.await(t, `^It is not outside +(curl \S+) `)
	hand := startCommand(t, exec.Command("sh", "-c", "exec "+byHand))
	if page := curl(t, "http://"+hand.await(t, `^Forwarding from (127\S+) ->`)); !strings.Contains(page, "kuard") {
		t.Errorf("the page is %.200q", page)
	}
	hand.interrupt(t)
	if out, err := exec.Command("sh", "-c", inside).CombinedOutput(); err != nil || !strings.Contains(string(out), "127.0.0.1:8080") {
		t.Errorf("%s: %v: %s", inside, err, out)
	}
	var refused *exec.ExitError
	if out, err := exec.Command("sh", "-c", outside).CombinedOutput(); !errors.As(err, &refused) || refused.ExitCode() != 7 {
		t.Errorf("%s: %v, want curl's 7: %s", outside, err, out)
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

// A demo whose output nobody reads ends, and takes everything down as after Ctrl-C.
func TestDemoUnread(t *testing.T) {
	testenv.Root(t)
	unread, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	unread.Close()
	defer out.Close()
	cmd := exec.CommandContext(t.Context(), porthole, "demo", "--port", "0")
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/sys/class/net/porthole0"); err == nil {
		t.Error("the bridge is still there")
	}
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
	out, err := exec.Command("curl", append([]string{"-sSf", "--max-time", "60"}, args...)...).Output()
	if err != nil {
		t.Fatalf("curl %v: %v", args, err)
	}
	return string(out)
}

// browse uses the page as a person does.
func browse(t *testing.T, url string) {
	page := browser.Open(t, url)
	if host := page.Text("#host"); host != "kuard" {
		t.Errorf("the page says that it is on %q", host)
	}
	page.Shot("demo")

	page.Do(
		chromedp.Click("#tab-dns"),
		chromedp.SetValue("#dns-name", "kuard.default"),
		chromedp.Click("#dns-query"),
		chromedp.WaitVisible("#dns-result"))
	answer := page.Text("#dns-result")
	if !strings.Contains(answer, "kuard.default.svc.cluster.local.") || !strings.Contains(answer, "NOERROR") {
		t.Errorf("the DNS page answers %q", answer)
	}
	page.Shot("dns")

	page.Do(
		chromedp.Click("#tab-probes"),
		chromedp.Click("#liveness-fail"),
		chromedp.WaitVisible("[data-probe=liveness][data-state=failing]"))
	// As the kubelet would ask.
	out, err := exec.Command("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url+"/healthy").Output()
	if err != nil || string(out) != "500" {
		t.Errorf("the probe that was made to fail answers %q, %v", out, err)
	}
	page.Do(chromedp.WaitVisible("#liveness-history tbody tr"))
	if history := page.Text("#liveness-history tbody"); !strings.Contains(history, "500") {
		t.Errorf("the probe's history is %q", history)
	}
	page.Shot("probes")
}
