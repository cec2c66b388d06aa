// Bench measures Porthole side by side with its peers and prints a table. It
// takes root, makes a network namespace of its own to forward into, and sends
// traffic to nothing but that and loopback.
//
// Each figure is the median of runs that alternate between the peers, and each
// ratio the median of the ratios run by run: a noisy machine is noisy for both.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	// The bench starts itself again for the parts that are processes of their own.
	switch {
	case len(os.Args) == 3 && os.Args[1] == "inside":
		exit(serveInside(os.Args[2]))
	case len(os.Args) == 3 && os.Args[1] == "serve":
		exit(serveOn("127.0.0.1:" + os.Args[2]))
	case len(os.Args) == 2 && os.Args[1] == "cat":
		exit(serveCat())
	case len(os.Args) == 3 && os.Args[1] == "proxy":
		exit(minimalProxy(os.Args[2]))
	case len(os.Args) == 6 && os.Args[1] == "load":
		exit(downloadForever(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	case len(os.Args) == 6 && os.Args[1] == "floor":
		exit(floorCommand(os.Args[2:]))
	}
	var b bench
	flag.StringVar(&b.porthole, "porthole", "bin/porthole", "the porthole binary to measure")
	flag.IntVar(&b.runs, "runs", 7, "runs of each figure")
	flag.Int64Var(&b.bytes, "mib", 1024, "size of a bulk transfer in MiB")
	kubectls := flag.String("kubectl", "", "comma-separated kubectls to compare with, on the cluster that KUBECONFIG names; left out without")
	flag.StringVar(&b.cluster.pod, "pod", "bench", "a pod of that cluster that runs `bench serve PORT`")
	flag.StringVar(&b.cluster.port, "port", "7000", "that port")
	flag.StringVar(&b.cluster.containerd, "containerd", "/run/porthole-cluster/containerd.sock", "the runtime's socket on that cluster's node")
	flag.StringVar(&b.cluster.node, "node", "porthole", "that node's name")
	flag.StringVar(&b.cluster.pointer, "pointer", "", "a command that points the node's kubelet at the runtime endpoint that it gets; the node is left out without")
	flag.StringVar(&b.cluster.agentImage, "agent-image", "", "the image of agents, which that node has; agents are left out without")
	flag.IntVar(&b.soak, "soak", 0, "connections of a soak through the cluster")
	flag.IntVar(&b.idle, "idle", 8000, "connections that are open and idle")
	flag.IntVar(&b.containers, "containers", 200, "containers that porthole targets lists")
	only := flag.String("only", "", "comma-separated parts to measure: bulk, connect, idle, udp, unix, ssh, engines, helper, rootless, kube, node, calls and datagrams (of node), agent, agent-downloads (of agent), agent-soak, reverse, chain, soak (default all)")
	flag.Parse()
	b.only = *only
	b.cluster.kubectls = strings.FieldsFunc(*kubectls, func(r rune) bool { return r == ',' })
	b.bytes <<= 20
	exit(b.run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// bench is one call of this program.
type bench struct {
	porthole   string
	runs       int
	bytes      int64
	idle       int
	soak       int
	containers int
	only       string
	cluster    cluster

	inside *inside
	rows   []row
}

// row is one line of the table.
type row struct {
	figure, porthole, peer, ratio, bar string
	ok                                 bool
}

func (b *bench) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	if b.inside, err = startInside(ctx); err != nil {
		return err
	}
	defer b.inside.close()
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{{"bulk", b.bulk}, {"connect", b.connect}, {"idle", b.idleConnections}, {"udp", b.udp}, {"unix", b.unix}, {"ssh", b.ssh}, {"engines", b.engines}, {"helper", b.helper}, {"rootless", b.rootless}, {"kube", b.kube}, {"node", b.node}, {"calls", b.nodeCalls}, {"datagrams", b.nodeDatagrams}, {"agent", b.agent}, {"agent-downloads", b.agentDownloads}, {"agent-soak", b.agentSoaked}, {"reverse", b.reverse}, {"chain", b.kubeChain}, {"soak", b.kubeSoak}} {
		if (part.name == "soak" || part.name == "agent-soak") && b.soak == 0 || (part.name == "soak" || part.name == "chain") && !b.cluster.given() {
			continue
		}
		if (part.name == "calls" || part.name == "datagrams" || part.name == "agent-downloads") && b.only == "" {
			continue // node and agent have them
		}
		if b.only != "" && !slices.Contains(strings.Split(b.only, ","), part.name) {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.print()
	return nil
}

func (b *bench) add(r row) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", r.figure, r.porthole)
	b.rows = append(b.rows, r)
}

func (b *bench) print() {
	fmt.Println("| figure | porthole | peer | ratio | to reach | reached |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	for _, r := range b.rows {
		reached := "yes"
		if !r.ok {
			reached = "NO"
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", r.figure, r.porthole, r.peer, r.ratio, r.bar, reached)
	}
}

// ratios divides run by run.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

// quantile is the value below which a part of the values lies.
func quantile(values []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
