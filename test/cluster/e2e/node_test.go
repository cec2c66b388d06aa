package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/test/cluster"
)

// TestNode puts `porthole node` between the kubelet and containerd. The parts share it, since the kubelet has to start
// again for each.
func TestNode(t *testing.T) {
	ctx := needCluster(t)
	n := startNode(t, ctx)
	for _, part := range []struct {
		name string
		test func(*testing.T, context.Context, *node)
	}{
		{"clients", nodeClients},
		{"refusals", nodeRefusals},
		{"one tunnel", nodeOneTunnel},
		{"a thousand", nodeThousand},
		{"sandbox", nodeSandbox},
		{"silence", nodeSilence},
		{"stalled", nodeStalled},
		{"threads", nodeThreads},
		{"host network", nodeHostNetwork},
		{"trace", nodeTrace},
		{"other calls", nodeOtherCalls},
		{"kubelet", nodeKubelet},
		{"containerd", nodeContainerd},
		{"killed", nodeKilled},
		{"data path killed", nodeDataPathKilled},
		{"other calls after that", nodeOtherCalls},
		{"policy", nodePolicy},
		{"targets", nodeTargets},
		{"socat", nodeSocat},
		{"pass-through", nodePassThrough},
		{"streamed lists", nodeStreamedLists},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, needCluster(t), n) })
	}
}

// nodeClients has every client get the answers that a stock node loses.
func nodeClients(t *testing.T, _ context.Context, _ *node) {
	for _, f := range forwarders() {
		t.Run(f.name, func(t *testing.T) {
			p := f.start(t, "pod/solo", ":8080")
			address := p.address(t, 0)
			wantUpload(t, address, 64<<20)
			wantDownload(t, address, 64<<20)
			if answer := ask(t, address, "late 3\nthe end"); answer != "late answer to the end" {
				t.Errorf("after an end of file and three seconds: %q", answer)
			}
			if !f.isKubectl() { // which is through when the pod has ended its side
				uploadAfterGoodbye(t, address)
			}
			who(t, address)
			p.interrupt(t)
		})
	}
}

// uploadAfterGoodbye sends on after the server has said its last, and wants all of it taken.
func uploadAfterGoodbye(t *testing.T, address string) {
	t.Helper()
	const size = 4 << 20
	conn := dial(t, address)
	if _, err := io.WriteString(conn, "sink\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // a stock node is through with it by now
	if n, err := io.CopyN(conn, rand.NewChaCha8([32]byte{}), size); err != nil {
		t.Fatalf("the upload ended after %d bytes with %v", n, err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if goodbye, err := io.ReadAll(conn); string(goodbye) != "goodbye\n" || err != nil {
		t.Errorf("got %q, %v", goodbye, err)
	}
	eventually(t, 10*time.Second, "the server has all of the upload", func() bool {
		return ask(t, address, "taken\n") == fmt.Sprint(size)
	})
}

// nodeRefusals holds what a person reads, and that nobody else is touched.
func nodeRefusals(t *testing.T, _ context.Context, _ *node) {
	for _, f := range forwarders() {
		t.Run(f.name, func(t *testing.T) {
			p := f.start(t, "pod/solo", ":1", ":8080")
			closed, open := p.address(t, 0), p.address(t, 1)
			if !f.isKubectl() { // which ends the session with the first refusal
				beside := newEchoer(t, open)
				defer func() {
					if _, err := beside.round(); err != nil {
						t.Errorf("the connection beside the failures: %v", err)
					}
				}()
			}
			answer, err := say(open, "reset\n")
			if f.isKubectl() {
				if answer != "half" {
					t.Errorf("before the pod's reset came %q, %v", answer, err)
				}
			} else {
				wantReset(t, answer, err)
			}
			who(t, open)
			answer, err = say(closed, "hello")
			if !f.isKubectl() {
				wantReset(t, answer, err)
				who(t, open)
			}
			p.await(t, p.stderr, `(?i)error forwarding port 1( to pod \w+, uid )?: .*connection refused|127\.0\.0\.1:1: connection refused`)
		})
	}
}

// nodeOneTunnel: both ends are Porthole, and a burst costs no tunnels.
func nodeOneTunnel(t *testing.T, _ context.Context, n *node) {
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	follow := followJSON(t, n, address)
	calls := metric(t, "porthole_cri_requests_total", `"PortForward"`)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if answer, err := say(address, "who\n"); err != nil || answer == "" {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
	wg.Wait()
	if more := metric(t, "porthole_cri_requests_total", `"PortForward"`) - calls; more > 3 { // a busy machine may make one seem stuck
		t.Errorf("200 connections at once opened %v tunnels more", more)
	}
	eventually(t, 10*time.Second, "the events tell of both ends", func() bool {
		return strings.Count(follow.stdout(), `"protocol":"porthole.v1"`) >= 400
	})
	follow.interrupt(t)
}

// followJSON starts to follow the node's events, and returns once it gets those of connections to the address.
func followJSON(t *testing.T, n *node, address string) *program {
	t.Helper()
	follow := start(t, "trace", "forward", "--events", "unix://"+n.socket("events"), "-o", "json")
	eventually(t, patience, "events come", func() bool {
		who(t, address)
		return strings.Contains(follow.stdout(), `"event":"closed"`)
	})
	return follow
}

// nodeStalled has one reader of 300 stop, and all others go on.
func nodeStalled(t *testing.T, _ context.Context, _ *node) {
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	others := make([]*echoer, 299)
	for i := range others {
		others[i] = newEchoer(t, address)
	}
	stalled := dial(t, address)
	if _, err := io.WriteString(stalled, "download 1073741824\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // until all on the way is full
	for i, e := range others {
		if _, err := e.round(); err != nil {
			t.Fatalf("beside a stalled reader: connection %d: %v", i, err)
		}
	}
	if rss := residentMiB(t, p.cmd.Process.Pid); rss > 200 {
		t.Errorf("porthole holds %d MiB", rss)
	}
}

// nodeThreads: an open connection costs the node no thread, and nothing once it is over.
func nodeThreads(t *testing.T, _ context.Context, n *node) {
	pid := n.dataPath(t)
	threads, files := status(t, pid, "Threads"), descriptors(t, pid)
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	all := make([]*echoer, 1000)
	for i := range all {
		all[i] = newEchoer(t, address)
	}
	for i, e := range all {
		if _, err := e.round(); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if open := metric(t, "porthole_forwards_open", ""); open != 1000 {
		t.Errorf("with 1,000 connections the node counts %v", open)
	}
	for _, process := range []string{"proxy", "data_path"} {
		if n := metric(t, "go_sched_gomaxprocs_threads", process); n != 1 {
			t.Errorf("the node's %s keeps to %v processors", process, n)
		}
	}
	more := status(t, pid, "Threads") - threads
	t.Logf("1,000 connections: %d threads more than %d", more, threads)
	if more > 20 {
		t.Errorf("1,000 connections take %d threads", more)
	}
	// The client goes without a word; what is its own goes with it.
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the connections of a client that was killed are gone", func() bool {
		return metric(t, "porthole_forwards_open", "") == 0 && descriptors(t, pid) <= files+5
	})
}

// nodeHostNetwork forwards to a pod whose network is the node's own.
func nodeHostNetwork(t *testing.T, ctx context.Context, _ *node) {
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "the node's own") })
	apply(t, ctx, pod("onhost", `{hostNetwork: true, terminationGracePeriodSeconds: 0, automountServiceAccountToken: false,
		containers: [{name: sleeper, image: "`+serverImage+`", imagePullPolicy: Never, args: [idle]}]}`))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/onhost", "--timeout=180s")
	p := start(t, "forward", "pod/onhost", fmt.Sprintf(":%d", port))
	if answer := ask(t, p.address(t, 0), ""); answer != "the node's own" {
		t.Errorf("got %q", answer)
	}
}

// nodeTrace: the node tells of its forwards as they happen, in words and as JSON.
func nodeTrace(t *testing.T, _ context.Context, n *node) {
	words := start(t, "trace", "forward", "--events", "unix://"+n.socket("events"))
	words.await(t, words.stdout, `^TIME`)
	p := start(t, "forward", "pod/solo", ":8080")
	objects := followJSON(t, n, p.address(t, 0))
	words.await(t, words.stdout, `default/solo +8080 .*ok`)
	line := objects.await(t, objects.stdout, `^(\{.*"event":"closed".*\})$`)[0]
	var event struct {
		Namespace, Pod, Result string
		Port                   int
		Sent, Received         int64
	}
	if err := json.Unmarshal([]byte(line), &event); err != nil {
		t.Fatal(err)
	}
	if event.Namespace != "default" || event.Pod != "solo" || event.Port != 8080 || event.Result != "ok" || event.Sent == 0 || event.Received == 0 {
		t.Errorf("the event is %s", line)
	}
	words.interrupt(t)
	objects.interrupt(t)
}

// nodeOtherCalls: what the kubelet asks of its runtime otherwise works as ever.
func nodeOtherCalls(t *testing.T, ctx context.Context, _ *node) {
	apply(t, ctx, pod("made", pods))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/made", "--timeout=180s")
	if version := kubectl(t, ctx, "get", "node", cluster.NodeName, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"); !strings.HasPrefix(version, "containerd://") {
		t.Errorf("the node's runtime is %q", version)
	}
	if out := kubectl(t, ctx, "exec", "made", "--", "/server", "hello"); out != "hello" {
		t.Errorf("exec printed %q", out)
	}
	kubectl(t, ctx, "logs", "made")
	kubectl(t, ctx, "delete", "pod", "made", "--timeout=180s")
}

// untouched wants that the containers of all pods are the same after as before.
func untouched(t *testing.T, ctx context.Context) func() {
	t.Helper()
	look := func() string {
		return kubectl(t, ctx, "get", "pods", "-o",
			`jsonpath={range .items[*]}{.metadata.name}{range .status.containerStatuses[*]} {.containerID} {.state.running.startedAt} {.restartCount}{end}{"\n"}{end}`)
	}
	before := look()
	if !strings.Contains(before, "containerd://") {
		t.Fatalf("the pods are %q", before)
	}
	return func() {
		t.Helper()
		if after := look(); after != before {
			t.Errorf("the pods are\n%s\nand were\n%s", after, before)
		}
	}
}

// nodeKubelet starts the kubelet again under load.
func nodeKubelet(t *testing.T, ctx context.Context, _ *node) {
	same := untouched(t, ctx)
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	stop := load(t, address, 20)
	if err := c.Restart(ctx, cluster.Kubelet); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	who(t, address)
	stop()
	same()
}

// load keeps connections coming, which may fail, until the function that it returns is called.
func load(t *testing.T, address string, n int) (stop func()) {
	t.Helper()
	over := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					_, _ = say(address, "download 1000000\n")
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(over); wg.Wait() })
}

// nodeContainerd starts containerd again: the node follows it.
func nodeContainerd(t *testing.T, ctx context.Context, n *node) {
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	beside := newEchoer(t, address)
	if _, err := beside.round(); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(ctx, cluster.Containerd); err != nil {
		t.Fatal(err)
	}
	// The bytes are the node's: they need no runtime.
	if _, err := beside.round(); err != nil {
		t.Errorf("while containerd was away: %v", err)
	}
	if err := c.Start(ctx, cluster.Containerd); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	awaitForward(t)
	if _, err := beside.round(); err != nil {
		t.Errorf("after containerd was away: %v", err)
	}
	who(t, address)
}

// nodeKilled kills the node's porthole during 100 transfers. All of them end as failures, the pods never notice, and
// the session comes back.
func nodeKilled(t *testing.T, ctx context.Context, n *node) {
	same := untouched(t, ctx)
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	var wg sync.WaitGroup
	clean := make(chan string, 100)
	begun := make(chan struct{}, 100)
	for range 100 {
		conn := dial(t, address)
		wg.Go(func() {
			if _, err := io.WriteString(conn, "download 1073741824\n"); err != nil {
				clean <- err.Error()
				return
			}
			_, err := conn.Read(make([]byte, 1))
			begun <- struct{}{}
			if err == nil {
				_, err = io.Copy(io.Discard, conn)
			}
			if err == nil {
				clean <- "a transfer that was cut ended as if complete"
			}
		})
	}
	for range 100 {
		<-begun
	}
	if err := n.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-n.ended
	wg.Wait()
	close(clean)
	for text := range clean {
		t.Error(text)
	}
	n.start(t) // over the socket that the dead one has left
	who(t, address)
	same()
}

// nodeDataPathKilled kills the process that carries the forwards. They end, and are made again; the kubelet and the
// node's own counts go on.
func nodeDataPathKilled(t *testing.T, ctx context.Context, n *node) {
	same := untouched(t, ctx)
	p := start(t, "forward", "pod/solo", ":8080")
	address := p.address(t, 0)
	conn := dial(t, address)
	if _, err := io.WriteString(conn, "download 1073741824\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// Of the kubelet's calls only those for forwards may have met an absence.
	failed := func() float64 {
		return metric(t, "porthole_cri_requests_total", `"Unavailable"`) - metric(t, "porthole_cri_requests_total", `code="Unavailable",method="PortForward"`)
	}
	calls, before := metric(t, "porthole_cri_requests_total", ""), failed()
	if err := syscall.Kill(n.dataPath(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err == nil {
		t.Error("a transfer that was cut ended as if complete")
	}
	who(t, address)
	if now := metric(t, "porthole_cri_requests_total", ""); now < calls {
		t.Errorf("the node counts %v calls, and counted %v before", now, calls)
	}
	if now := failed(); now != before {
		t.Errorf("%v of the kubelet's calls were not answered", now-before)
	}
	same()
}

// nodePolicy: what the operator denies reaches the user in words.
func nodePolicy(t *testing.T, ctx context.Context, n *node) {
	apply(t, ctx, pod("onhost", `{hostNetwork: true, terminationGracePeriodSeconds: 0, automountServiceAccountToken: false,
		containers: [{name: sleeper, image: "`+serverImage+`", imagePullPolicy: Never, args: [idle]}]}`))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/onhost", "--timeout=180s")
	n.again(t, "--deny-host-network", "--allow-ports", "8000-9000", "--deny-ports", "8081")
	for _, f := range forwarders() {
		for _, denied := range []struct{ pod, port, words string }{
			{"solo", "9090", "port 9090"}, {"solo", "8081", "port 8081"}, {"onhost", "8080", "host"},
		} {
			p := f.start(t, "pod/"+denied.pod, ":"+denied.port)
			answer, err := say(p.address(t, 0), "who\n")
			if err == nil && answer != "" {
				t.Errorf("%s: %s %s: got %q", f.name, denied.pod, denied.port, answer)
			}
			p.await(t, p.stderr, denied.words+`.*denied|denied.*`+denied.words)
		}
		p := f.start(t, "pod/solo", ":8080")
		who(t, p.address(t, 0))
	}
	n.again(t)
}

// nodeTargets: a pod's ports are those that really listen, as far as the operator allows them to be reached.
func nodeTargets(t *testing.T, ctx context.Context, n *node) {
	listed := func() (ports []string) {
		out, err := command(porthole, "targets", "pod/solo", "-o", "json").Output()
		var all []struct {
			Ports []struct {
				Network             string
				Port                int
				Listening, Declared bool
			}
		}
		if err = errors.Join(err, json.Unmarshal(out, &all)); err != nil || len(all) != 1 {
			t.Fatalf("porthole targets: %v: %s", err, out)
		}
		for _, p := range all[0].Ports {
			ports = append(ports, fmt.Sprintf("%d/%s listening=%v declared=%v", p.Port, p.Network, p.Listening, p.Declared))
		}
		return ports
	}
	want := func(with string, ports ...string) {
		t.Helper()
		if got := listed(); !slices.Equal(got, ports) {
			t.Errorf("%s: %q, want %q", with, got, ports)
		}
	}
	want("without a policy", "8080/tcp listening=true declared=true", "9090/tcp listening=true declared=true", "5353/udp listening=false declared=true")
	n.again(t, "--deny-ports", "9090")
	want("with a policy", "8080/tcp listening=true declared=true", "9090/tcp listening=false declared=true", "5353/udp listening=false declared=true")
	n.again(t)
}

// nodeSocat compares the other backend's results; the article's test has its errors.
func nodeSocat(t *testing.T, _ context.Context, n *node) {
	n.again(t, "--backend", "socat")
	for _, f := range forwarders() {
		p := f.start(t, "pod/solo", ":8080")
		address := p.address(t, 0)
		who(t, address)
		wantDownload(t, address, 8<<20)
	}
	n.await(t, n.stderr, `executing port forwarding command: .*nsenter -t \d+ -n .*socat - TCP4:localhost:8080`)
	eventually(t, 10*time.Second, "the processes are gone", func() bool { return len(children(t, n.dataPath(t))) == 0 })
	n.again(t)
}

// nodePassThrough: forwards to pods of a handler that is named are containerd's, all others the node's.
func nodePassThrough(t *testing.T, ctx context.Context, n *node) {
	apply(t, ctx, `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: other}, handler: other}`)
	apply(t, ctx, pod("other", strings.Replace(pods, "{", "{runtimeClassName: other, ", 1)))
	kubectl(t, ctx, "wait", "--for=condition=Ready", "pod/other", "--timeout=180s")
	n.again(t, "--pass-through", "mine,other")
	for _, f := range forwarders() {
		passed := metric(t, "porthole_forwards_passed_through_total", `"other"`)
		p := f.start(t, "pod/other", ":8080")
		who(t, p.address(t, 0))
		if now := metric(t, "porthole_forwards_passed_through_total", `"other"`); now <= passed {
			t.Errorf("%s: the node counts %v forwards that were passed through, and %v before", f.name, now, passed)
		}
		p = f.start(t, "pod/solo", ":8080")
		who(t, p.address(t, 0))
	}
	if strings.Contains(n.stderr(), "pod=other port=") {
		t.Error("the node carries forwards that it should pass through")
	}
	kubectl(t, ctx, "delete", "pod/other", "runtimeclass/other", "--timeout=180s")
	n.again(t)
}

// nodeStreamedLists has the kubelet ask for lists that stream, of which containerd has some.
func nodeStreamedLists(t *testing.T, ctx context.Context, n *node) {
	again := func(args ...string) {
		if err := errors.Join(c.SetArgs(cluster.Kubelet, args...), c.Restart(ctx, cluster.Kubelet), c.WaitReady(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	again("--feature-gates=CRIListStreaming=true")
	defer again()
	nodeOtherCalls(t, ctx, n)
	for _, method := range []string{"StreamPodSandboxes", "StreamContainers"} {
		eventually(t, time.Minute, method+" was answered", func() bool {
			return metric(t, "porthole_cri_requests_total", `code="OK",method="`+method+`"`) > 0
		})
	}
}

// status is a number of /proc/PID/status.
func status(t *testing.T, pid int, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + key + `:\s+(\d+)`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in the status of %d", key, pid)
	}
	var n int
	_, _ = fmt.Sscan(string(m[1]), &n)
	return n
}

func residentMiB(t *testing.T, pid int) int { return status(t, pid, "VmRSS") / 1024 }

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// children are the processes that a process has started.
func children(t *testing.T, pid int) []string {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range lists {
		list, _ := os.ReadFile(path) // a thread may be gone
		all = append(all, strings.Fields(string(list))...)
	}
	return all
}
