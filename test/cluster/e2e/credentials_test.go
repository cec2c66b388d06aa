package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// passes are tokens of one service account, which can be revoked.
type passes struct {
	account string
}

// newPasses makes a service account that may forward to deployments.
func newPasses(t *testing.T, ctx context.Context, account string) passes {
	t.Helper()
	apply(t, ctx, fmt.Sprintf(`
{apiVersion: v1, kind: ServiceAccount, metadata: {name: %[1]s}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: %[1]s}, rules: [
  {apiGroups: [apps], resources: [deployments], verbs: [get]},
  {apiGroups: [""], resources: [pods], verbs: [get, list, watch]},
  {apiGroups: [""], resources: [pods/portforward], verbs: [get, create]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: %[1]s},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s},
  subjects: [{kind: ServiceAccount, name: %[1]s, namespace: default}]}`, account))
	return passes{account}
}

// issue makes a token that is good for as long as the secret of that name exists.
func (p passes) issue(t *testing.T, ctx context.Context, secret string) (token string) {
	t.Helper()
	apply(t, ctx, "{apiVersion: v1, kind: Secret, metadata: {name: "+secret+"}}\n")
	return kubectl(t, ctx, "create", "token", p.account, "--duration=10m", "--bound-object-kind=Secret", "--bound-object-name="+secret)
}

// revoke returns once the API server refuses a token, which it remembers for some seconds.
func (p passes) revoke(t *testing.T, ctx context.Context, secret, kubeconfig string) {
	t.Helper()
	kubectl(t, ctx, "delete", "secret", secret)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
		if _, err := c.Kubectl(ctx, "--kubeconfig", kubeconfig, "auth", "whoami"); err != nil {
			return
		}
	}
	t.Fatal("the API server accepts a token that was revoked")
}

// plugin is an exec plugin of a kubeconfig, which hands out what it was told to and counts its calls.
type plugin struct {
	dir string
}

// newPlugin makes one. If it is short, it says of what it hands out that it is good for two seconds.
func newPlugin(t *testing.T, short bool) plugin {
	t.Helper()
	p := plugin{t.TempDir()}
	var expiry string
	if short {
		expiry = `, "expirationTimestamp": "$(date -u -d "2 seconds" +%Y-%m-%dT%H:%M:%SZ)"`
	}
	script := fmt.Sprintf(`#!/bin/sh
cd %s && echo >>calls
test -e token || { echo "no pass today" >&2; exit 1; }
cat <<END
{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "$(cat token)"%s}}
END
`, p.dir, expiry)
	if err := os.WriteFile(p.path(), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p plugin) path() string { return filepath.Join(p.dir, "plugin") }

// gives has it hand out a token.
func (p plugin) gives(t *testing.T, token string) {
	t.Helper()
	fresh := filepath.Join(p.dir, "fresh")
	if err := os.WriteFile(fresh, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, filepath.Join(p.dir, "token")); err != nil {
		t.Fatal(err)
	}
}

// calls is how often it was asked.
func (p plugin) calls() int {
	text, _ := os.ReadFile(filepath.Join(p.dir, "calls"))
	return len(text)
}

// kubeconfig is one that has it.
func (p plugin) kubeconfig(t *testing.T) string {
	t.Helper()
	return credentialKubeconfig(t, `exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: `+p.path()+`}`)
}

// TestCredentialsExpire has a session outlive its credentials: those that say themselves when, and those that the
// server does not accept any more. Each time the kubeconfig's plugin is asked again.
func TestCredentialsExpire(t *testing.T) {
	ctx := needCluster(t)
	for _, way := range []string{"expired", "revoked"} {
		t.Run(way, func(t *testing.T) {
			name := "lodger-" + way
			applyReady(t, ctx, name, 1)
			tokens, asked := newPasses(t, ctx, name), newPlugin(t, way == "expired")
			first := tokens.issue(t, ctx, name+"-1")
			asked.gives(t, first)
			p := start(t, "forward", "--kubeconfig", asked.kubeconfig(t), "deploy/"+name, ":8080")
			address := p.address(t, 0)
			before, calls := who(t, address), asked.calls()
			asked.gives(t, tokens.issue(t, ctx, name+"-2"))
			tokens.revoke(t, ctx, name+"-1", tokenKubeconfig(t, first))
			kubectl(t, ctx, "delete", "pod", before)
			waitSuccessor(t, address, before)
			t.Logf("the plugin was called %d times, and %d before", asked.calls(), calls)
			if asked.calls() <= calls {
				t.Error("the plugin was not asked again")
			}
			wantToldOnce(t, p)
			p.interrupt(t)
		})
	}
}

// TestCredentialsLost has nothing that renews them: the session says so, goes on, and takes it up when they are good
// again; a program that starts then ends at once and says why.
func TestCredentialsLost(t *testing.T) {
	ctx := needCluster(t)
	applyReady(t, ctx, "evictee", 1)
	tokens, asked := newPasses(t, ctx, "evictee"), newPlugin(t, false)
	first := tokens.issue(t, ctx, "evictee-1")
	asked.gives(t, first)
	static := tokenKubeconfig(t, first)
	renewed := start(t, "forward", "--wait", "2s", "--kubeconfig", asked.kubeconfig(t), "deploy/evictee", ":8080")
	programs := []*program{renewed, start(t, "forward", "--wait", "2s", "--kubeconfig", static, "deploy/evictee", ":8080")}
	var before string
	for _, p := range programs {
		before = who(t, p.address(t, 0))
	}
	if err := os.Remove(filepath.Join(asked.dir, "token")); err != nil {
		t.Fatal(err)
	}
	tokens.revoke(t, ctx, "evictee-1", static)
	kubectl(t, ctx, "delete", "pod", before)
	for _, p := range programs {
		// The first reason to be told may still be that the pod ends, or that the next is not ready.
		again := func() string {
			answer, err := say(p.address(t, 0), "who\n")
			wantReset(t, answer, err)
			return p.stderr()
		}
		p.await(t, again, `^porthole: .*does not accept the credentials.*log in again`)
		wantToldOnce(t, p)
	}
	wantParts(t, wantFailure(t, "forward", "--kubeconfig", static, "deploy/evictee", ":8080"), "does not accept the credentials", "log in again")
	if calls := asked.calls(); calls > 30 { // it may well open a browser
		t.Errorf("the plugin was called %d times, which has nothing to give", calls)
	}
	asked.gives(t, tokens.issue(t, ctx, "evictee-2"))
	waitServed(t, renewed.address(t, 0))
}

// waitServed waits until a connection has an answer.
func waitServed(t *testing.T, address string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if answer, err := say(address, "who\n"); err == nil && answer != "" {
			return
		}
	}
	t.Error("no connection is served although the credentials are good again")
}
