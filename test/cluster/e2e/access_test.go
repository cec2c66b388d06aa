package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// rules are what a user needs for a form of target, and no more.
var rules = map[string]string{
	"pod/solo":     `{apiGroups: [""], resources: [pods], verbs: [get]}`,
	"svc/web":      `{apiGroups: [""], resources: [services], verbs: [get]}, {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list]}`,
	"deploy/web":   `{apiGroups: [apps], resources: [deployments], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}`,
	"sts/stateful": `{apiGroups: [apps], resources: [statefulsets], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}`,
	"ds/daemon":    `{apiGroups: [apps], resources: [daemonsets], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}`,
	"job/job":      `{apiGroups: [batch], resources: [jobs], verbs: [get]}, {apiGroups: [""], resources: [pods], verbs: [list]}`,
}

const mayForward = `{apiGroups: [""], resources: [pods/portforward], verbs: [create]}`

// grant gives a user of that name a role with the rules, in the default namespace and for as long as the test runs.
func grant(t *testing.T, ctx context.Context, user, rules string) (kubeconfig string) {
	t.Helper()
	kubeconfig, err := c.UserKubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	if rules != "" {
		apply(t, ctx, fmt.Sprintf(`
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: %[1]s}, rules: [%[2]s]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: %[1]s},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s},
  subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[1]s}]}`, user, rules))
	}
	return kubeconfig
}

// TestAllowed holds what a user must be allowed for each form of target.
func TestAllowed(t *testing.T) {
	ctx := needCluster(t)
	for target, needed := range rules {
		t.Run(target, func(t *testing.T) {
			kubeconfig := grant(t, ctx, "user-"+strings.ReplaceAll(target, "/", "-"), needed+", "+mayForward)
			port := map[bool]int{true: 80, false: 8080}[strings.HasPrefix(target, "svc/")]
			p := start(t, "forward", "--kubeconfig", kubeconfig, target, fmt.Sprintf(":%d", port))
			who(t, p.address(t, 0))
			if p.stderr() != "" {
				t.Errorf("stderr: %s", p.stderr())
			}
		})
	}
}

// TestForbidden holds that a user learns what to ask an administrator for.
func TestForbidden(t *testing.T) {
	ctx := needCluster(t)
	for _, each := range []struct{ user, rules, target, verb, resource string }{
		{"nobody", "", "pod/solo", "get", "pods"},
		{"nobody", "", "svc/web", "get", "services"},
		{"nobody", "", "deploy/web", "get", "deployments.apps"},
		{"looker", rules["pod/solo"], "pod/solo", "create", "pods/portforward"},
		{"surveyor", `{apiGroups: [""], resources: [services], verbs: [get]}`, "svc/web", "list", "endpointslices.discovery.k8s.io"},
		{"foreman", `{apiGroups: [apps], resources: [deployments], verbs: [get]}`, "deploy/web", "list", "pods"},
	} {
		t.Run(each.user+" "+each.target, func(t *testing.T) {
			kubeconfig := grant(t, ctx, each.user, each.rules)
			args := []string{"--kubeconfig", kubeconfig, each.target, ":80"}
			line := wantFailure(t, append([]string{"forward"}, args...)...)
			wantParts(t, line, "forbidden", fmt.Sprintf("user %q", each.user), "namespace default",
				fmt.Sprintf(" %s %s ", each.verb, each.resource),
				"`kubectl create role porthole-"+each.verb, fmt.Sprintf(" --verb=%s --resource=%s --namespace=default`", each.verb, each.resource))
			if each.verb == "create" {
				reference := startCommand(t, command(c.KubectlPath(), append([]string{"port-forward"}, args...)...))
				reference.exit(t)
				wantParts(t, reference.stderr(), "error upgrading connection")
				wantParts(t, line, "error upgrading connection")
			}
		})
	}
}

// TestHint holds that what the hint says can be typed, and is enough.
func TestHint(t *testing.T) {
	ctx := needCluster(t)
	kubeconfig := grant(t, ctx, "newcomer", "")
	for range 2 {
		line := wantFailure(t, "forward", "--kubeconfig", kubeconfig, "pod/solo", ":8080")
		for i, part := range strings.Split(line, "`") {
			if i%2 == 1 {
				kubectl(t, ctx, strings.Fields(strings.TrimPrefix(part, "kubectl "))...)
			}
		}
		t.Cleanup(func() {
			kubectl(t, context.Background(), "delete", "role,rolebinding", roleIn(line))
		})
	}
	p := start(t, "forward", "--kubeconfig", kubeconfig, "pod/solo", ":8080")
	who(t, p.address(t, 0))
}

// roleIn is the role that a hint names.
func roleIn(line string) string {
	_, after, _ := strings.Cut(line, "create role ")
	name, _, _ := strings.Cut(after, " ")
	return name
}
