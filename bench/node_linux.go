package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nodeSide is a `porthole node` beside containerd, and a kubelet that can be led to
// either of them.
type nodeSide struct {
	*bench
	dir        string // of the sockets
	node       *exec.Cmd
	runtimes   *runtimeSwitch
	containerd string // path of its socket
	clients    []client
}

// nodeMetrics is where the node that is measured counts its goroutines.
const nodeMetrics = "127.0.0.1:29754"

// client is a forwarder whose tunnels lead through one of the runtimes.
type client struct {
	name    string
	peer    *peer
	runtime string // path of the socket
}

// The clients by their place in nodeSide.clients.
const (
	bothEnds = iota
	kubectlOnContainerd
	portholeOnContainerd
	kubectlOnNode
)

// node measures porthole and kubectl, each on containerd and on `porthole node`.
func (b *bench) node(ctx context.Context) error {
	return b.onNode(ctx, (*nodeSide).connects, (*nodeSide).bursts, (*nodeSide).transfers, (*nodeSide).stall, (*nodeSide).threads,
		(*nodeSide).datagrams, (*nodeSide).calls, (*nodeSide).besideDownloads, (*nodeSide).backends, (*nodeSide).answers, (*nodeSide).soaked)
}

// nodeCalls measures of that the kubelet's calls alone.
func (b *bench) nodeCalls(ctx context.Context) error {
	return b.onNode(ctx, (*nodeSide).calls, (*nodeSide).besideDownloads)
}

func (b *bench) onNode(ctx context.Context, measures ...func(*nodeSide, context.Context) error) error {
	if b.cluster.pointer == "" {
		fmt.Fprintln(os.Stderr, "node: no -pointer given: left out")
		return nil
	}
	n, err := b.startNodeSide(ctx)
	if err != nil {
		return err
	}
	defer n.close(context.WithoutCancel(ctx))
	for _, measure := range measures {
		if err := measure(n, ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) startNodeSide(ctx context.Context) (n *nodeSide, err error) {
	n = &nodeSide{bench: b, containerd: b.cluster.containerd}
	defer func() {
		if err != nil {
			n.close(context.WithoutCancel(ctx))
		}
	}()
	if n.dir, err = os.MkdirTemp("", "porthole-bench-"); err != nil {
		return n, err
	}
	if n.node, err = n.startNode(ctx, n.ours(), "--metrics-address", nodeMetrics); err != nil {
		return n, err
	}
	between := filepath.Join(n.dir, "switch.sock")
	if n.runtimes, err = newRuntimeSwitch(between, n.containerd); err != nil {
		return n, err
	}
	if err := b.point(ctx, "unix://"+between); err != nil {
		return n, err
	}
	return n, n.startClients(ctx)
}

// ours is the CRI socket of the `porthole node` that is measured.
func (n *nodeSide) ours() string { return filepath.Join(n.dir, "cri.sock") }

// startNode starts a `porthole node` and returns when it serves.
func (n *nodeSide) startNode(ctx context.Context, socket string, flags ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, n.porthole, append([]string{"node", "--cri-listen", "unix://" + socket,
		"--cri-upstream", "unix://" + n.containerd, "--metrics-address", "", "--events", "unix://" + socket + ".events"}, flags...)...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			return cmd, c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop(cmd)
	return nil, errors.New("porthole node does not serve")
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
}

// dataPath is the process of a node that carries its forwards, its only child.
func dataPath(node *exec.Cmd) (pid int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", node.Process.Pid))
	for _, path := range lists {
		list, _ := os.ReadFile(path) // a thread may be gone
		_, _ = fmt.Sscan(string(list), &pid)
	}
	return pid
}

// cpuSeconds is what both processes of the node have used.
func (n *nodeSide) cpuSeconds() float64 {
	return cpuSeconds(n.node.Process.Pid) + cpuSeconds(dataPath(n.node))
}

// startClients starts each client while the kubelet is led to its runtime.
func (n *nodeSide) startClients(ctx context.Context) error {
	kubectl := n.cluster.kubectls[0]
	n.clients = make([]client, 4)
	for i, c := range []struct{ name, program, command, runtime string }{
		bothEnds:             {"porthole at both ends", n.porthole, "forward", n.ours()},
		kubectlOnContainerd:  {"kubectl on containerd", kubectl, "port-forward", n.containerd},
		portholeOnContainerd: {"porthole on containerd", n.porthole, "forward", n.containerd},
		kubectlOnNode:        {"kubectl on porthole node", kubectl, "port-forward", n.ours()},
	} {
		if err := n.lead(ctx, c.runtime); err != nil {
			return err
		}
		p, err := n.startClient(ctx, c.program, []string{c.command, "pod/" + n.cluster.pod})
		if err != nil {
			return err
		}
		n.clients[i] = client{c.name, p, c.runtime}
	}
	return nil
}

// lead has the kubelet speak to a runtime, and returns when it does.
func (n *nodeSide) lead(ctx context.Context, runtime string) error {
	n.runtimes.lead(runtime)
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		// The kubelet asks its runtime for the answer.
		err := exec.CommandContext(ctx, n.cluster.kubectls[0], "get", "--raw", "/api/v1/nodes/"+n.cluster.node+"/proxy/runningpods/").Run()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func (n *nodeSide) close(ctx context.Context) {
	for _, c := range n.clients {
		if c.peer != nil {
			c.peer.close()
		}
	}
	if n.runtimes != nil {
		if err := n.point(ctx, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		n.runtimes.close()
	}
	if n.node != nil {
		stop(n.node)
	}
	os.RemoveAll(n.dir)
}

// measureEach takes a measurement of each client in turn, after one that does not
// count; figures[i] are those of clients[i].
func (n *nodeSide) measureEach(ctx context.Context, clients []client, measure func(client) (float64, error)) ([][]float64, error) {
	figures := make([][]float64, len(clients))
	for run := range n.runs + 1 {
		for i, c := range clients {
			if err := n.lead(ctx, c.runtime); err != nil {
				return nil, err
			}
			f, err := measure(c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if run > 0 {
				figures[i] = append(figures[i], f)
			}
		}
	}
	return figures, nil
}

// against adds a row of one client against another.
func (n *nodeSide) against(figure, format string, figures [][]float64, a, b int, bar string, ok func(ratio float64) bool) {
	ratio := median(ratios(figures[a], figures[b]))
	n.add(row{"node: " + figure + ", " + n.clients[a].name, fmt.Sprintf(format, median(figures[a])),
		fmt.Sprintf(format+" (%s)", median(figures[b]), n.clients[b].name), fmt.Sprintf("%.2f", ratio), bar, ok(ratio)})
}

func (n *nodeSide) connects(ctx context.Context) error {
	times, err := n.measureEach(ctx, n.clients, func(c client) (float64, error) { return connectP50(c.peer.dial, 50) })
	if err != nil {
		return err
	}
	for _, i := range []int{bothEnds, kubectlOnNode} {
		n.against("connect to first byte, p50, ms", "%.2f", times, i, kubectlOnContainerd, "-", func(float64) bool { return true })
	}
	return nil
}

func (n *nodeSide) bursts(ctx context.Context) error {
	times, err := n.measureEach(ctx, n.clients, func(c client) (float64, error) { return burst(c.peer.dial, 200) })
	if err != nil {
		return err
	}
	n.against("200 at once, ms", "%.0f", times, bothEnds, kubectlOnContainerd, "at most 0.5", func(r float64) bool { return r <= 0.5 })
	n.against("200 at once, ms", "%.0f", times, kubectlOnNode, kubectlOnContainerd, "-", func(float64) bool { return true })
	return nil
}

// transfers measures rates, and what they take of the node's own processes.
func (n *nodeSide) transfers(ctx context.Context) error {
	runtime, err := peerPID(n.containerd)
	if err != nil {
		return err
	}
	for _, conns := range []int{1, 8} {
		used := map[string][]float64{}
		rates, err := n.measureEach(ctx, n.clients, func(c client) (float64, error) {
			before := n.cpuSeconds() + cpuSeconds(runtime)
			rate, err := n.downloads(c.peer.dial, conns)
			used[c.name] = append(used[c.name], (n.cpuSeconds()+cpuSeconds(runtime)-before)/(float64(n.bytes)/(1<<30)))
			return rate, err
		})
		if err != nil {
			return err
		}
		figure := fmt.Sprintf("download, %d at once, MB/s", conns)
		n.against(figure, "%.0f", rates, bothEnds, kubectlOnContainerd, "at least 2", func(r float64) bool { return r >= 2 })
		n.against(figure, "%.0f", rates, kubectlOnNode, kubectlOnContainerd, "at least 1", func(r float64) bool { return r >= 1 })
		cpus := make([][]float64, len(n.clients))
		for i, c := range n.clients {
			cpus[i] = used[c.name][1:]
		}
		n.against(fmt.Sprintf("node CPU, %d at once, s/GiB", conns), "%.2f", cpus, bothEnds, kubectlOnContainerd, "at most 0.5", func(r float64) bool { return r <= 0.5 })
	}
	return nil
}

// stall compares echo round trips of 299 connections with and without one more
// that has stopped to read, all in one tunnel.
func (n *nodeSide) stall(ctx context.Context) error {
	c := n.clients[bothEnds]
	if err := n.lead(ctx, c.runtime); err != nil {
		return err
	}
	return n.stallOf299("node: echo p99 of 299 beside a stalled reader in one tunnel, ms", c.peer.dial)
}

// stallOf299 is the measurement of stall for any way to the server.
func (b *bench) stallOf299(figure string, dial dialer) error {
	conns, err := openEchoes(dial, 299)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	var without, with []float64
	for range b.runs { // in turns: each stalled reader comes and goes
		for _, stalled := range []bool{false, true} {
			p99, err := b.besideStalled(dial, conns, stalled)
			if err != nil {
				return err
			}
			if stalled {
				with = append(with, p99)
			} else {
				without = append(without, p99)
			}
		}
	}
	ratio := median(ratios(with, without))
	b.add(row{figure, fmt.Sprintf("%.2f", median(with)), fmt.Sprintf("%.2f (nobody stalled)", median(without)),
		fmt.Sprintf("%.2f", ratio), "at most 1.2", ratio <= 1.2})
	return nil
}

func (b *bench) besideStalled(dial dialer, conns []net.Conn, stalled bool) (float64, error) {
	if stalled {
		c, err := dial()
		if err != nil {
			return 0, err
		}
		defer c.Close()
		if err := ask(c, b.bytes); err != nil {
			return 0, err
		}
		time.Sleep(time.Second) // until everything on the way is full
	}
	return echoP99(conns)
}

// openEchoes opens connections that echo; those it returns are open even if there is an error.
func openEchoes(dial dialer, n int) (conns []net.Conn, err error) {
	for range n {
		c, err := echoed(dial)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// threads counts what 1,000 live connections take of the node.
func (n *nodeSide) threads(ctx context.Context) error {
	c := n.clients[bothEnds]
	if err := n.lead(ctx, c.runtime); err != nil {
		return err
	}
	before := status(dataPath(n.node), "Threads")
	conns, err := openEchoes(c.peer.dial, 1000)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	if _, err := echoP99(conns); err != nil {
		return err
	}
	more := status(dataPath(n.node), "Threads") - before
	n.add(row{"node: threads more with 1,000 live connections", fmt.Sprint(more), fmt.Sprintf("%d (idle)", before), "-", "at most 20", more <= 20})
	return nil
}

// soaked has the node carry many connections, if asked to, and compares what it
// holds afterwards with what it held before.
func (n *nodeSide) soaked(ctx context.Context) error {
	if n.soak == 0 {
		return nil
	}
	c := n.clients[bothEnds]
	if err := n.lead(ctx, c.runtime); err != nil {
		return err
	}
	var prints [2]footprint
	for i, connections := range []int{soakWarm, n.soak} {
		var err error
		if prints[i], err = soakFor(c.peer.dial, dataPath(n.node), connections); err == nil {
			var goroutines float64
			goroutines, err = metric(nodeMetrics, `go_goroutines{process="data_path"}`)
			prints[i].goroutines = int(goroutines)
		}
		if err != nil {
			return err
		}
	}
	n.addSoak("node", prints[0], prints[1])
	return nil
}

// metric is one of a program's Prometheus metrics, by its name with its labels.
func metric(address, name string) (float64, error) {
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no %s among the metrics of %s", name, address)
}

// conversation is one whose answer follows the end of the request.
type conversation struct {
	name string
	hold func(net.Conn) error
}

func (b *bench) conversations() []conversation {
	return []conversation{
		{fmt.Sprintf("answer to an upload of %d MiB", b.bytes>>21), func(c net.Conn) error { return upload(c, b.bytes/2) }},
		{"answer 3 s after a half-close", func(c net.Conn) error { return upload(c, untilEnd) }},
	}
}

// answers counts what comes back of uploads and half-closed conversations.
func (n *nodeSide) answers(ctx context.Context) error {
	for _, kind := range n.conversations() {
		came := make([]string, len(n.clients))
		for i, c := range n.clients {
			if err := n.lead(ctx, c.runtime); err != nil {
				return err
			}
			came[i] = answered(c.peer.dial, kind.hold)
		}
		for _, i := range []int{bothEnds, kubectlOnNode} {
			n.add(row{"node: " + kind.name + ", " + n.clients[i].name, came[i],
				fmt.Sprintf("%s (%s)", came[kubectlOnContainerd], n.clients[kubectlOnContainerd].name), "-", "answered", came[i] == "answered"})
		}
	}
	return nil
}

// answered says what became of a conversation.
func answered(dial dialer, converse func(net.Conn) error) string {
	c, err := dial()
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	if err := converse(c); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return "lost, and a clean end"
		}
		return "lost"
	}
	return "answered"
}
