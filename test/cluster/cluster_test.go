package cluster_test

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/test/cluster"
)

const helloImage = "porthole.dev/hello:1"

// needRoot ends a test that cannot run; where nothing may be left out, it fails it.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Lacking(t, "root: a node makes namespaces, mounts and bridges")
	}
}

func options(t *testing.T) cluster.Options {
	return cluster.Options{
		Dir: os.Getenv("PORTHOLE_CLUSTER_DIR"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// deadline is long enough for a slow machine with everything built.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start builds, takes down what an earlier run left, looks at the host and starts.
// When the test is over, the host must look the same again.
func start(t *testing.T, ctx context.Context) *cluster.Cluster {
	t.Helper()
	needRoot(t)
	o := options(t)
	if err := cluster.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Down(ctx, o); err != nil {
		t.Fatal(err)
	}
	before := lookAtHost(t)
	goroutines := goleak.IgnoreCurrent()
	c, err := cluster.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		before.wantBack(t)
		goleak.VerifyNone(t, goroutines)
	})
	return c
}

// runHello brings the web server up in a pod.
func runHello(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	t.Helper()
	if err := c.ImportImage(ctx, helloImage, c.BinaryPath("hello")); err != nil {
		t.Fatal(err)
	}
	err := c.KubectlApply(ctx, `{apiVersion: v1, kind: Pod, metadata: {name: hello}, spec: {
		terminationGracePeriodSeconds: 0,
		containers: [{name: hello, image: "`+helloImage+`", imagePullPolicy: Never}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, ctx, c, "wait", "--for=condition=Ready", "pod/hello", "--timeout=60s")
}

func kubectl(t *testing.T, ctx context.Context, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestCluster(t *testing.T) {
	ctx := deadline(t)
	c := start(t, ctx)
	runHello(t, ctx, c)

	t.Run("forward", func(t *testing.T) {
		wantPage(t, forward(t, c, c.Kubeconfig()), "/", "hello from hello\n")
	})
	t.Run("dns", func(t *testing.T) {
		wantPage(t, forward(t, c, c.Kubeconfig()), "/lookup/kubernetes.default", "10.201.0.1\n")
	})
	t.Run("rbac", func(t *testing.T) { testRBAC(t, ctx, c) })
	t.Run("open", func(t *testing.T) { testOpen(t, c) })
	t.Run("runtime endpoint", func(t *testing.T) { testRuntimeEndpoint(t, ctx, c) })
	for _, name := range cluster.Components() {
		t.Run("restart "+string(name), func(t *testing.T) { testRestart(t, ctx, c, name) })
	}
}

// testRBAC holds the rule that the documentation gives to users who only forward.
func testRBAC(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	kubeconfig, err := c.UserKubeconfig("forwarder", "forwarders")
	if err != nil {
		t.Fatal(err)
	}
	wantForbidden(t, c, kubeconfig, `cannot get resource "pods"`)
	grant(t, ctx, c, `{apiGroups: [""], resources: [pods], verbs: [get]}`)
	wantForbidden(t, c, kubeconfig, `cannot create resource "pods/portforward"`)
	grant(t, ctx, c, `{apiGroups: [""], resources: [pods], verbs: [get]}, {apiGroups: [""], resources: [pods/portforward], verbs: [create]}`)
	wantPage(t, forward(t, c, kubeconfig), "/", "hello from hello\n")
}

// grant gives the group rules in the default namespace.
func grant(t *testing.T, ctx context.Context, c *cluster.Cluster, rules string) {
	t.Helper()
	err := c.KubectlApply(ctx, `
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: forwarder}, rules: [`+rules+`]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: forwarder},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: forwarder},
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: forwarders}]}`)
	if err != nil {
		t.Fatal(err)
	}
}

func testOpen(t *testing.T, c *cluster.Cluster) {
	second, err := cluster.Open(options(t).Dir)
	if err != nil {
		t.Fatal(err)
	}
	ours := c.Status()
	for i, theirs := range second.Status() {
		if theirs != ours[i] || theirs.PID == 0 {
			t.Errorf("opened cluster has %+v, started one %+v", theirs, ours[i])
		}
	}
}

// testRestart ends and starts one component; the pod must not notice.
func testRestart(t *testing.T, ctx context.Context, c *cluster.Cluster, name cluster.Component) {
	if err := c.Kill(ctx, name); err != nil {
		t.Fatal(err)
	}
	if pid := pidOf(c, name); pid != 0 {
		t.Fatalf("%s was killed and has PID %d", name, pid)
	}
	if err := c.Start(ctx, name); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := c.Restart(ctx, name); err != nil {
		t.Fatal(err)
	}
	t.Logf("restart took %v", time.Since(began).Round(time.Millisecond))
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	wantPage(t, forward(t, c, c.Kubeconfig()), "/", "hello from hello\n")
	restarts := kubectl(t, ctx, c, "get", "pod", "hello", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	if strings.TrimSpace(restarts) != "0" {
		t.Errorf("the pod's container was restarted %s times", restarts)
	}
}

func pidOf(c *cluster.Cluster, name cluster.Component) int {
	for _, status := range c.Status() {
		if status.Component == name {
			return status.PID
		}
	}
	return 0
}

// TestDownAfterCrash loses what a crash may lose: the record, and the programs that could help to clear up.
func TestDownAfterCrash(t *testing.T) {
	ctx := deadline(t)
	c := start(t, ctx)
	runHello(t, ctx, c)
	for _, name := range []cluster.Component{cluster.Containerd, cluster.Etcd} {
		if err := c.Kill(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Down(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Down(ctx); err != nil {
		t.Errorf("second down: %v", err)
	}
	if _, err := cluster.Open(options(t).Dir); err == nil {
		t.Error("opened a cluster that is down")
	}
}
