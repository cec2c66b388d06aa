package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// container is one with the server in it; more is what it has besides.
func container(more string) string {
	return `{image: "` + serverImage + `", imagePullPolicy: Never,
	startupProbe: {exec: {command: [/server, listens]}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 60}, ` + more + "}"
}

// member is a pod with a label that several share.
func member(name, app, spec string) string {
	return fmt.Sprintf("---\n{apiVersion: v1, kind: Pod, metadata: {name: %s, labels: {app: %s}}, spec: {terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, %s}}\n",
		name, app, spec)
}

// waitPods waits until pods are ready, and so is a service that leads to them.
func waitPods(t *testing.T, ctx context.Context, app string, names ...string) {
	t.Helper()
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod", "-l", "app="+app, "--timeout=180s")
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out := kubectl(t, ctx, "get", "endpointslices", "-l", "kubernetes.io/service-name="+app,
			"-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}")
		missing := 0
		for _, name := range names {
			if !strings.Contains(" "+out+" ", " "+name+" ") {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("svc/%s leads to %q, want %v", app, out, names)
		}
	}
}

// wantAll makes connections that all have to come to one of these places, and counts them.
func wantAll(t *testing.T, address string, n int, places ...string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for i := range n {
		got := strings.TrimSpace(ask(t, address, "who\n"))
		if counts[got]++; !strings.Contains("|"+strings.Join(places, "|")+"|", "|"+got+"|") {
			t.Fatalf("connection %d of %d came to %q, want %v", i+1, n, got, places)
		}
	}
	return counts
}

// TestPortsInDifferentPods holds that every connection to a service comes to a pod that has its port.
func TestPortsInDifferentPods(t *testing.T) {
	ctx := needCluster(t)
	apply(t, ctx, member("split-http-1", "split", "containers: ["+container("name: s, ports: [{name: http, containerPort: 8080}]")+"]")+
		member("split-http-2", "split", "containers: ["+container("name: s, ports: [{name: http, containerPort: 8080}]")+"]")+
		member("split-grpc", "split", "containers: ["+container("name: s, ports: [{name: grpc, containerPort: 9090}]")+"]")+`---
{apiVersion: v1, kind: Service, metadata: {name: split}, spec: {selector: {app: split}, ports: [
	{name: http, port: 80, targetPort: http}, {name: grpc, port: 81, targetPort: grpc}]}}
`)
	waitPods(t, ctx, "split", "split-http-1", "split-http-2", "split-grpc")
	for _, args := range [][]string{{"svc/split", ":80", ":grpc"}, {"--pin", "svc/split", ":80", ":grpc"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			p := start(t, append([]string{"forward"}, args...)...)
			counts := wantAll(t, p.address(t, 0), 100, "split-http-1 8080", "split-http-2 8080")
			if pinned := args[0] == "--pin"; pinned != (len(counts) == 1) {
				t.Errorf("connections come to %v", counts)
			}
			wantAll(t, grpcAddress(t, p), 100, "split-grpc 9090")
			p.await(t, p.stdout, `^Forwarding from 127\S+ -> 8080$`)
			p.await(t, p.stdout, `^Forwarding from 127\S+ -> 9090$`)
			if p.stderr() != "" {
				t.Errorf("stderr: %s", p.stderr())
			}
			p.interrupt(t)
		})
	}
}

// grpcAddress is where the second port is listened for.
func grpcAddress(t *testing.T, p *program) string {
	t.Helper()
	return p.await(t, p.stdout, `^Forwarding from (127\S+) -> 9090$`)[0]
}

// TestSidecar holds that a native sidecar's port has its name, for kubectl's and for this program alike, and that a named pod
// is reached while nothing but the sidecar runs.
func TestSidecar(t *testing.T) {
	ctx := needCluster(t)
	sidecar := container("name: proxy, restartPolicy: Always, ports: [{name: mesh, containerPort: 9090}]")
	idle := `{name: NAME, image: "` + serverImage + `", imagePullPolicy: Never, args: [idle]}`
	apply(t, ctx, member("carried", "carried", "initContainers: ["+sidecar+"], containers: ["+strings.ReplaceAll(idle, "NAME", "main")+"]")+
		member("carried-early", "early", "initContainers: ["+sidecar+", "+strings.ReplaceAll(idle, "NAME", "migrate")+"], containers: ["+
			strings.ReplaceAll(idle, "NAME", "main")+"]")+`---
{apiVersion: v1, kind: Service, metadata: {name: carried}, spec: {selector: {app: carried}, ports: [{port: 80, targetPort: mesh}]}}
`)
	waitPods(t, ctx, "carried", "carried")
	for _, args := range [][]string{{"pod/carried", ":mesh"}, {"svc/carried", ":80"}} {
		p := start(t, append([]string{"forward"}, args...)...)
		wantAll(t, p.address(t, 0), 20, "carried 9090")
		p.interrupt(t)
	}
	early := start(t, "forward", "pod/carried-early", ":mesh")
	wantAll(t, early.address(t, 0), 20, "carried-early 9090")
	if phase := kubectl(t, ctx, "get", "pod", "carried-early", "-o", "jsonpath={.status.phase}"); phase != "Pending" {
		t.Errorf("the pod is %s, so that nothing was shown", phase)
	}

	// Why it is not ready is that an init container runs.
	apply(t, ctx, `---
{apiVersion: v1, kind: Service, metadata: {name: early}, spec: {selector: {app: early}, ports: [{port: 80, targetPort: mesh}]}}
`)
	p := start(t, "forward", "--pod-running-timeout=3s", "svc/early", ":80")
	if p.exit(t) == 0 || !strings.Contains(p.stderr(), "container migrate: PodInitializing: init container 1 of 1 is running") {
		t.Errorf("stderr: %s", p.stderr())
	}
}

// TestHeadless holds that a headless service's ports lead to their target ports.
func TestHeadless(t *testing.T) {
	ctx := needCluster(t)
	apply(t, ctx, member("alone", "alone", "containers: ["+container("name: s, ports: [{name: http, containerPort: 8080}]")+"]")+`---
{apiVersion: v1, kind: Service, metadata: {name: alone}, spec: {clusterIP: None, selector: {app: alone}, ports: [{name: web, port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: portless}, spec: {clusterIP: None, selector: {app: alone}}}
`)
	waitPods(t, ctx, "alone", "alone")
	for _, args := range [][]string{{"svc/alone", ":80"}, {"svc/alone", ":web"}, {"svc/alone", ":8080"}, {"svc/portless", ":8080"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			p := start(t, append([]string{"forward"}, args...)...)
			wantAll(t, p.address(t, 0), 20, "alone 8080")
			p.interrupt(t)
		})
	}
}

// TestServiceWithoutSelector holds that a service leads to the pods that its slices name, be they written by hand or
// mirrored from Endpoints.
func TestServiceWithoutSelector(t *testing.T) {
	ctx := needCluster(t)
	uid := kubectl(t, ctx, "get", "pod", "solo", "-o", "jsonpath={.metadata.uid}")
	ip := kubectl(t, ctx, "get", "pod", "solo", "-o", "jsonpath={.status.podIP}")
	ref := "targetRef: {kind: Pod, name: solo, namespace: default, uid: " + uid + "}"
	for name, manifest := range map[string]string{
		"byhand": `---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: byhand-1, labels: {kubernetes.io/service-name: byhand}}, addressType: IPv4,
	ports: [{name: http, port: 8080}], endpoints: [{addresses: ["` + ip + `"], ` + ref + `}]}
`,
		"mirrored": `---
{apiVersion: v1, kind: Endpoints, metadata: {name: mirrored}, subsets: [{addresses: [{ip: "` + ip + `", ` + ref + `}], ports: [{name: http, port: 8080}]}]}
`,
	} {
		t.Run(name, func(t *testing.T) {
			apply(t, ctx, fmt.Sprintf("---\n{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {ports: [{name: http, port: 80}]}}\n", name)+manifest)
			waitEndpointsNamed(t, ctx, name)
			p := start(t, "forward", "svc/"+name, ":80")
			wantAll(t, p.address(t, 0), 20, "solo 8080")
			p.interrupt(t)
		})
	}
}

// waitEndpointsNamed waits until a service has a slice that names a pod.
func waitEndpointsNamed(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if kubectl(t, ctx, "get", "endpointslices", "-l", "kubernetes.io/service-name="+name, "-o", "jsonpath={.items[*].endpoints[*].targetRef.name}") != "" {
			return
		}
	}
	t.Fatalf("svc/%s has no slice that names a pod", name)
}

// TestServiceIsEdited changes a service in every way that keeps its port, while connections are made all the time.
func TestServiceIsEdited(t *testing.T) {
	ctx := needCluster(t)
	apply(t, ctx, member("edited", "edited", "containers: ["+container("name: s, ports: [{name: http, containerPort: 8080}, {name: other, containerPort: 9090}]")+"]")+`---
{apiVersion: v1, kind: Service, metadata: {name: edited}, spec: {selector: {app: edited}, ports: [{port: 80, targetPort: 8080}]}}
`)
	waitPods(t, ctx, "edited", "edited")
	p := start(t, "forward", "svc/edited", ":80")
	wantAll(t, p.address(t, 0), 10, "edited 8080")
	for _, edit := range []struct{ ports, place string }{
		{`[{name: web, port: 80, targetPort: 9090}]`, "edited 9090"},
		{`[{name: more, port: 81, targetPort: 9090}, {name: web, port: 80, targetPort: http}]`, "edited 8080"},
		{`[{name: renamed, port: 80, targetPort: other}]`, "edited 9090"},
		{`[{name: renamed, port: 8000, targetPort: 8080}]`, "edited 8080"},
	} {
		kubectl(t, ctx, "patch", "svc", "edited", "--type=merge", "-p", "spec: {ports: "+edit.ports+"}")
		for end := time.Now().Add(patience); ; {
			counts := wantAll(t, p.address(t, 0), 1, "edited 8080", "edited 9090") // none fails meanwhile
			if counts[edit.place] == 1 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("after %s connections still come to %v", edit.ports, counts)
			}
		}
		wantAll(t, p.address(t, 0), 10, edit.place)
	}
	if p.stderr() != "" {
		t.Errorf("stderr: %s", p.stderr())
	}
	p.interrupt(t)
}
