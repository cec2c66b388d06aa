// Package e2e tests the built program on a real cluster, as its users start it. It knows the command line, the
// cluster and the server in testdata, and nothing of what is behind the command line.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/test/cluster"
)

// serverImage is testdata/server.
const serverImage = "porthole.dev/e2e-server:1"

var (
	// porthole is the program under test: $PORTHOLE_BIN, or else one that is built for this run.
	porthole = os.Getenv("PORTHOLE_BIN")
	// c is the cluster that all tests share. Nil without root.
	c *cluster.Cluster
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// run starts the cluster, runs the tests, and takes the cluster down again, of which nothing may be left.
func run(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil // each test says what is missing
	}
	dir, err := os.MkdirTemp("", "porthole-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	server := filepath.Join(dir, "server")
	if err := build(server, ".", "./testdata/server"); err != nil {
		return 1, err
	}
	if porthole == "" {
		porthole = filepath.Join(dir, "porthole")
		if err := build(porthole, "../../..", "./cmd/porthole"); err != nil {
			return 1, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	options := cluster.Options{Dir: os.Getenv("PORTHOLE_CLUSTER_DIR"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if c, err = cluster.Start(ctx, options); err != nil {
		return 1, err
	}
	err = prepare(ctx, server)
	if err == nil {
		code = m.Run()
	}
	return code, errors.Join(err, c.Down(context.Background()), leftovers())
}

func build(binary, dir, what string) error {
	cmd := exec.Command("go", "build", "-o", binary, what)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", what, err, out)
	}
	return nil
}

// leftovers says what a cluster that is down has left on this machine. Init takes its time to bury the dead.
func leftovers() (err error) {
	for range 600 {
		if err = look(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// look looks once.
func look() error {
	var found []string
	for _, pattern := range []string{"/run/porthole-cluster", "/sys/class/net/porthole-*", "/sys/fs/cgroup/porthole-cluster", "/sys/fs/cgroup/*/porthole-cluster"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		found = append(found, paths...)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, path := range processes {
		if cgroup, _ := os.ReadFile(path); strings.Contains(string(cgroup), "/porthole-cluster") {
			found = append(found, filepath.Dir(path))
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("the cluster is down and has left %v", found)
	}
	return nil
}

// pods is a pod's specification with the server in it, as JSON. Without the probe it would be ready as soon as the
// server's process is there, which need not listen yet.
const pods = `{terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, containers: [{
	name: server, image: "` + serverImage + `", imagePullPolicy: Never,
	startupProbe: {exec: {command: [/server, listens]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60},
	ports: [{name: http, containerPort: 8080}, {name: more, containerPort: 9090}, {name: dns, containerPort: 5353, protocol: UDP}]}]}`

// workload is a manifest of something with pods, and spec what stands before its selector.
func workload(version, kind, name, spec string) string {
	return fmt.Sprintf(`---
{apiVersion: %s, kind: %s, metadata: {name: %s}, spec: {%s selector: {matchLabels: {app: %[3]s}},
	template: {metadata: {labels: {app: %[3]s}}, spec: %[5]s}}}
`, version, kind, name, spec, pods)
}

func deployment(name string, replicas int) string {
	return workload("apps/v1", "Deployment", name, fmt.Sprintf("replicas: %d, ", replicas))
}

// service leads to the pods of the workload with the same name; spec is what it has besides.
func service(name, app, spec string) string {
	return fmt.Sprintf(`---
{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {%s selector: {app: %s}, ports: [
	{name: http, port: 80, targetPort: http}, {name: more, port: 8081, targetPort: 9090}, {name: dns, port: 53, protocol: UDP, targetPort: dns}]}}
`, name, spec, app)
}

func pod(name, spec string) string {
	return fmt.Sprintf("---\n{apiVersion: v1, kind: Pod, metadata: {name: %s, labels: {app: %[1]s}}, spec: %s}\n", name, spec)
}

// prepare brings up what tests share and none of them may change.
func prepare(ctx context.Context, server string) error {
	if err := c.ImportImage(ctx, serverImage, server); err != nil {
		return err
	}
	manifests := pod("solo", pods) + deployment("web", 3) + service("web", "web", "") + service("sticky", "web", "sessionAffinity: ClientIP,") +
		workload("apps/v1", "StatefulSet", "stateful", "serviceName: stateful,") + workload("apps/v1", "DaemonSet", "daemon", "") +
		`---
{apiVersion: batch/v1, kind: Job, metadata: {name: job}, spec: {template: {metadata: {labels: {app: job}},
	spec: ` + strings.Replace(pods, "{", "{restartPolicy: Never, ", 1) + `}}}
`
	if err := c.KubectlApply(ctx, manifests); err != nil {
		return err
	}
	for _, what := range []string{"deploy/web", "sts/stateful", "ds/daemon"} {
		if _, err := c.Kubectl(ctx, "rollout", "status", what, "--timeout=180s"); err != nil {
			return err
		}
	}
	_, err := c.Kubectl(ctx, "wait", "--for=jsonpath={.status.ready}=1", "job/job", "--timeout=180s")
	return err
}

// needCluster ends a test that cannot run; where nothing may be left out, it fails it. The context is for the test's
// own use of the cluster.
func needCluster(t *testing.T) context.Context {
	t.Helper()
	if c == nil {
		testenv.Lacking(t, "root: a node makes namespaces, mounts and bridges")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func kubectl(t *testing.T, ctx context.Context, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// apply makes objects that are gone with the test.
func apply(t *testing.T, ctx context.Context, manifests string) {
	t.Helper()
	if err := c.KubectlApply(ctx, manifests); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.Background(), "delete", "--wait=false", "--ignore-not-found", "-f", file); err != nil {
			t.Error(err)
		}
	})
}

// applyReady is apply for a deployment, whose pods are ready then.
func applyReady(t *testing.T, ctx context.Context, name string, replicas int) {
	t.Helper()
	apply(t, ctx, deployment(name, replicas))
	kubectl(t, ctx, "rollout", "status", "deploy/"+name, "--timeout=180s")
}
