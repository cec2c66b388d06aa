package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// wantFailure wants a program to end with exit status 1, nothing on stdout and one line on stderr, which has a hint.
func wantFailure(t *testing.T, args ...string) string {
	t.Helper()
	p := start(t, args...)
	if code := p.exit(t); code != 1 {
		t.Errorf("exit status %d", code)
	}
	if p.stdout() != "" {
		t.Errorf("stdout: %s", p.stdout())
	}
	line := strings.TrimSpace(p.stderr())
	if strings.Contains(line, "\n") {
		t.Errorf("more than a line: %s", line)
	}
	wantParts(t, line, "porthole: ", "hint: ")
	return line
}

func wantParts(t *testing.T, line string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(line, part) {
			t.Errorf("no %q in %q", part, line)
		}
	}
}

// wrongObjects are targets that nothing can be forwarded to.
const wrongObjects = `
{apiVersion: v1, kind: Service, metadata: {name: selectorless}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: elsewhere}, spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: nothing}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: unpulled}, spec: {containers: [{name: main, image: "registry.invalid/no/such:1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: unscheduled}, spec: {nodeSelector: {no: such}, containers: [{name: main, image: "registry.invalid/no/such:1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: never}, spec: {containers: [{name: main, image: "registry.invalid/no/such:1", imagePullPolicy: Never}]}}
`

// TestWrong holds what is said about each thing that is wrong.
func TestWrong(t *testing.T) {
	ctx := needCluster(t)
	apply(t, ctx, wrongObjects+deployment("idle", 0))
	kubectl(t, ctx, "wait", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff", "pod/unpulled", "--timeout=180s")
	for name, each := range map[string]struct {
		args  string
		parts []string
	}{
		"no kubeconfig":       {"KUBECONFIG=/nonexistent/config HOME=/nonexistent forward solo :8080", []string{"kubeconfig"}},
		"no context":          {"forward --context nosuch solo :8080", []string{`"nosuch"`}},
		"unreachable":         {"forward --server https://127.0.0.1:1 solo :8080", []string{"cannot be reached", "https://127.0.0.1:1", "connection refused"}},
		"invalid token":       {"forward --kubeconfig " + tokenKubeconfig(t, "invalid") + " solo :8080", []string{"does not accept the credentials", "log in again"}},
		"no such pod":         {"forward nosuch :8080", []string{"no pod/nosuch in namespace default"}},
		"nearly a pod":        {"forward sole :8080", []string{"no pod/sole in namespace default", "pod/solo", "porthole forward pod/solo :8080`"}},
		"not a pod":           {"forward web :8080", []string{"no pod/web in namespace default", "svc/web", "deploy/web"}},
		"no such service":     {"forward svc/nosuch :80", []string{"no svc/nosuch in namespace default"}},
		"no such namespace":   {"forward -n nosuch solo :8080", []string{"there is no namespace nosuch", "kubectl get namespaces"}},
		"nearly a namespace":  {"forward solo :8080 --namespace=defualt", []string{"there is no namespace defualt, but default", "porthole forward solo :8080 --namespace=default`"}},
		"service nowhere":     {"forward -n nosuch svc/web :80", []string{"there is no namespace nosuch"}},
		"nearly a service":    {"forward svc/wbe :80", []string{"no svc/wbe in namespace default, but svc/web", "porthole forward svc/web :80`"}},
		"a process' number":   {"forward 4947 :8080", []string{"no pod/4947", "porthole forward pid://4947 :8080`"}},
		"a command":           {"forward svc/web :80 true", []string{"svc/web has no port true", "porthole forward svc/web :80 -- true`"}},
		"no such type":        {"forward nosuch/web :8080", []string{"nosuch", "no such type"}},
		"no pods of its own":  {"forward configmap/kube-root-ca.crt :8080", []string{"has no pods of its own"}},
		"image not pulled":    {"forward unpulled :8080", []string{"unable to forward", "pod unpulled is Pending", "ImagePullBackOff", "registry.invalid"}},
		"image never pulled":  {"forward never :8080", []string{"unable to forward", "pod never is Pending", "ErrImageNeverPull"}},
		"not scheduled":       {"forward --pod-running-timeout 500ms unscheduled :8080", []string{"unable to forward", "pod unscheduled is Pending", "Unschedulable", "node"}},
		"scaled to nothing":   {"forward deploy/idle :8080", []string{"unable to forward", "scaled to 0 replicas"}},
		"no endpoint":         {"forward --pod-running-timeout 500ms svc/empty :80", []string{"unable to forward", "svc/empty has no pods"}},
		"no such name":        {"forward svc/web :nosuch", []string{"svc/web has no port nosuch", "http (80)", "more (8081)"}},
		"no such name in pod": {"forward solo :nosuch", []string{"pod/solo has no port nosuch", "http (8080)", "more (9090)"}},
		"no such number":      {"forward svc/web :8080", []string{"svc/web has no port 8080", "http (80)"}},
		"UDP by name":         {"forward svc/web :dns", []string{"port dns of svc/web is UDP", "TCP"}},
		"UDP by number":       {"forward solo :5353", []string{"port 5353 of pod/solo is UDP", "TCP"}},
		"no selector":         {"forward --via stock svc/selectorless :80", []string{"no selector", "--via relay"}},
		"external name":       {"forward --via stock svc/elsewhere :80", []string{"example.com", "--via relay"}},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			line := wantFailure(t, strings.Fields(each.args)...)
			wantParts(t, line, each.parts...)
			t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), line)
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestTakenPort holds that a local port which is in use is named.
func TestTakenPort(t *testing.T) {
	needCluster(t)
	p := start(t, "forward", "solo", ":8080")
	_, port, _ := strings.Cut(p.address(t, 0), ":")
	line := wantFailure(t, "forward", "solo", port+":8080")
	wantParts(t, line, port, "address already in use")
}

// tokenKubeconfig is the administrator's kubeconfig with a token instead of the certificate.
func tokenKubeconfig(t *testing.T, token string) string {
	return credentialKubeconfig(t, "token: "+token)
}

// credentialKubeconfig is the administrator's kubeconfig with something else instead of the certificate.
func credentialKubeconfig(t *testing.T, credential string) string {
	t.Helper()
	config, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config = regexp.MustCompile(`(?m)^ *client-certificate-data:.*\n`).ReplaceAll(config, nil)
	config = regexp.MustCompile(`(?m)client-key-data:.*$`).ReplaceAll(config, []byte(credential))
	file := filepath.Join(t.TempDir(), "kubeconfig.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
