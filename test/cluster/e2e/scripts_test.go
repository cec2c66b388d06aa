package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReadyFile holds that whoever sees the file can connect, and that it goes with the session.
func TestReadyFile(t *testing.T) {
	needCluster(t)
	file := filepath.Join(t.TempDir(), "ready")
	p := start(t, "forward", "--ready-file", file, "--address", "127.0.0.1", "svc/web", ":http", ":more")
	var lines []string
	for end := time.Now().Add(patience); time.Now().Before(end) && lines == nil; time.Sleep(5 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil {
			lines = strings.Split(strings.TrimSpace(string(text)), "\n")
		}
	}
	if len(lines) != 2 || !strings.HasSuffix(lines[0], " 80") || !strings.HasSuffix(lines[1], " 8081") {
		t.Fatalf("ready file: %q", lines)
	}
	address, _, _ := strings.Cut(lines[1], " ")
	if got := ask(t, address, "who\n"); !strings.HasSuffix(got, " 9090") {
		t.Errorf("got an answer from %s", got)
	}
	p.interrupt(t)
	if _, err := os.Stat(file); err == nil {
		t.Error("the ready file is still there")
	}
}

// event is a line of -o json.
type event struct {
	Time                                                            time.Time
	Event, Target, Pod, Listen, Client, Error, Hint, Via, Container string
	Remote                                                          uint16
	Sent, Received                                                  *int64
	Seconds                                                         float64
}

func events(t *testing.T, p *program) (all []event) {
	t.Helper()
	for line := range strings.Lines(p.stdout()) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// awaitEvent waits for the nth event of a kind.
func awaitEvent(t *testing.T, p *program, kind string, nth int) event {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		n := 0
		for _, e := range events(t, p) {
			if e.Event == kind {
				n++
			}
			if n == nth {
				return e
			}
		}
	}
	t.Fatalf("no event %q, %d times", kind, nth)
	return event{}
}

func TestEvents(t *testing.T) {
	ctx := needCluster(t)
	applyReady(t, ctx, "eventful", 1)
	p := start(t, "forward", "-o", "json", "--address", "127.0.0.1", "deploy/eventful", ":8080", ":7")
	listening := awaitEvent(t, p, "listening", 1)
	ready := awaitEvent(t, p, "ready", 1)
	if listening.Remote != 8080 || listening.Target != "deploy/eventful" || !strings.HasPrefix(ready.Pod, "eventful-") {
		t.Errorf("%+v, %+v", listening, ready)
	}
	conn := dial(t, listening.Listen)
	if _, err := io.WriteString(conn, "pause 1\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	conn.Close()
	if err != nil {
		t.Fatal(err)
	}
	opened, closed := awaitEvent(t, p, "opened", 1), awaitEvent(t, p, "closed", 1)
	if opened.Client == "" || opened.Client != closed.Client || opened.Listen != listening.Listen {
		t.Errorf("%+v, %+v", opened, closed)
	}
	if *closed.Sent != int64(len("pause 1\n")) || *closed.Received != int64(len(answer)) || closed.Error != "" || closed.Seconds < 1 {
		t.Errorf("%+v", closed)
	}
	_, _ = say(awaitEvent(t, p, "listening", 2).Listen, "x")
	if refused := awaitEvent(t, p, "closed", 2); !strings.Contains(refused.Error, "error forwarding port") || refused.Hint == "" {
		t.Errorf("%+v", refused)
	}
	kubectl(t, ctx, "delete", "pod", ready.Pod)
	who(t, listening.Listen)
	if e := awaitEvent(t, p, "reconnecting", 1); e.Error == "" {
		t.Errorf("%+v", e)
	}
	if again := awaitEvent(t, p, "ready", 2); again.Pod == ready.Pod {
		t.Errorf("%+v", again)
	}
	p.interrupt(t)
}

func TestCommand(t *testing.T) {
	needCluster(t)
	script := `printf 'who\n' >/dev/null; echo "$PORTHOLE_ADDR $PORTHOLE_PORT $PORTHOLE_ADDR_8081 $PORTHOLE_PORT_8081"; exit 7`
	p := start(t, "forward", "--address", "127.0.0.1", "svc/web", ":80", ":8081", "--", "sh", "-c", script)
	if code := p.exit(t); code != 7 {
		t.Errorf("exit status %d", code)
	}
	words := strings.Fields(p.stdout())
	if len(words) != 4 || !strings.HasSuffix(words[0], ":"+words[1]) || !strings.HasSuffix(words[2], ":"+words[3]) || words[1] == words[3] {
		t.Errorf("stdout is the command's alone: %q", p.stdout())
	}
	for line, want := range map[string]int{"kill -TERM $$": 128 + int(syscall.SIGTERM), "true": 0} {
		if code := start(t, "forward", "-q", "solo", ":8080", "--", "sh", "-c", line).exit(t); code != want {
			t.Errorf("%s: exit status %d, want %d", line, code, want)
		}
	}
	if code := start(t, "forward", "-q", "solo", ":8080", "--", "/nonexistent/command").exit(t); code != 127 {
		t.Errorf("no such command: exit status %d", code)
	}
	signalled := start(t, "forward", "-q", "solo", ":8080", "--", "sh", "-c", "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 0.1; done")
	signalled.await(t, signalled.stdout, "^up")
	_ = signalled.cmd.Process.Signal(syscall.SIGTERM)
	if code := signalled.exit(t); code != 3 || !strings.Contains(signalled.stdout(), "caught") {
		t.Errorf("signalled: exit status %d, stdout %q", code, signalled.stdout())
	}
}

// TestFile forwards to targets of two namespaces. One comes only later, and one is never ready, for which the others do not wait.
func TestFile(t *testing.T) {
	ctx := needCluster(t)
	apply(t, ctx, "{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}\n")
	kubectl(t, ctx, "wait", "--for=create", "serviceaccount/default", "-n", "elsewhere", "--timeout=180s")
	apply(t, ctx, strings.Replace(pod("stranger", pods), "metadata: {", "metadata: {namespace: elsewhere, ", 1))
	kubectl(t, ctx, "wait", "-n", "elsewhere", "--for=condition=Ready", "pod/stranger", "--timeout=180s")
	apply(t, ctx, pod("pending", strings.Replace(pods, "{", "{nodeSelector: {nowhere: to-be-found}, ", 1)))
	file := filepath.Join(t.TempDir(), "forwards.yaml")
	later := freePort(t)
	text := fmt.Sprintf(`forwards:
  - {name: web, target: svc/web, ports: [":http"]}
  - {target: stranger, namespace: elsewhere, ports: [":8080"]}
  - {name: later, target: svc/later, ports: ["%s:80"]}
  - {name: pending, target: pod/pending, ports: [":8080"]}
`, later)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(t.TempDir(), "ready")
	p := start(t, "forward", "-f", file, "--ready-file", ready, "--ready-when", "any")
	web := p.await(t, p.stdout, `^Forwarding from (127\S+) -> \d+ of web`)[0]
	stranger := p.await(t, p.stdout, `^Forwarding from (127\S+) -> 8080 of pod/stranger`)[0]
	if got := who(t, web); !strings.HasPrefix(got, "web-") {
		t.Errorf("got an answer from %s", got)
	}
	if got := who(t, stranger); got != "stranger" {
		t.Errorf("got an answer from %s", got)
	}
	if strings.Contains(p.stderr(), "forwards.yaml:5: pending") {
		t.Errorf("they waited until the last one was given up: %s", p.stderr())
	}
	if _, err := os.Stat(ready); err != nil {
		t.Errorf("with one that is open: %v", err)
	}
	p.await(t, p.stderr, `forwards.yaml:4: later: waiting: no svc/later in namespace default`)
	if strings.Contains(p.stderr(), "lost connection") {
		t.Errorf("nothing was lost that was never there: %s", p.stderr())
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:"+later); err == nil {
		conn.Close()
		t.Error("it listens for a target that does not exist")
	}
	apply(t, ctx, service("later", "solo", ""))
	p.await(t, p.stdout, `^Forwarding from 127.0.0.1:`+later+` -> \d+ of later`)
	if got := who(t, "127.0.0.1:"+later); got != "solo" {
		t.Errorf("got an answer from %s", got)
	}
	p.interrupt(t)
}

func TestCompletion(t *testing.T) {
	needCluster(t)
	for _, words := range []struct {
		args []string
		want []string
	}{
		{[]string{"svc/"}, []string{"svc/kubernetes", "svc/sticky", "svc/web"}},
		{[]string{"s"}, []string{"solo", "stateful-0", "sts/", "svc/"}},
		{[]string{"deploy/w"}, []string{"deploy/web"}},
		{[]string{"svc/web", ""}, []string{"80\thttp", "8081\tmore"}},
		{[]string{"svc/web", "8000:"}, []string{"8000:80\thttp", "8000:8081\tmore"}},
		{[]string{"solo", "9"}, []string{"9090\tmore"}},
		{[]string{"deploy/web", ""}, []string{"8080\thttp", "9090\tmore"}},
		{[]string{"svc/nosuch", ""}, nil},
		{[]string{"-n", "kube-s"}, []string{"kube-system"}},
		{[]string{"-n", "nosuch", "svc/"}, nil},
	} {
		p := start(t, append([]string{"__complete", "forward"}, words.args...)...)
		if code := p.exit(t); code != 0 {
			t.Errorf("%q: exit status %d", words.args, code)
		}
		lines := strings.Split(p.stdout(), "\n")
		got := map[string]bool{}
		for _, line := range lines {
			got[line] = true
		}
		for _, want := range words.want {
			if !got[want] {
				t.Errorf("%q: no %q in %q", words.args, want, lines)
			}
		}
		if words.want == nil && !strings.HasPrefix(lines[0], ":") {
			t.Errorf("%q: %q", words.args, lines)
		}
	}
}
