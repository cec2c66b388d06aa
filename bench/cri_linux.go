package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/proc"
	"porthole.dev/porthole/internal/target"
)

// runtimeClient speaks CRI to a socket.
type runtimeClient struct {
	cri.RuntimeServiceClient
	conn *grpc.ClientConn
}

func dialRuntime(socket string) (*runtimeClient, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &runtimeClient{cri.NewRuntimeServiceClient(conn), conn}, nil
}

// peerPID is the process that listens on a Unix socket.
func peerPID(socket string) (int, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	peer, err := proc.Peer(c.(*net.UnixConn))
	if err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

// calls measures what the proxy adds to a CRI call.
func (n *nodeSide) calls(ctx context.Context) error {
	var figures [2][]float64
	for range n.runs {
		for i, socket := range []string{n.ours(), n.containerd} {
			p50, err := callP50(ctx, socket, 300)
			if err != nil {
				return err
			}
			figures[i] = append(figures[i], p50)
		}
	}
	ours, direct := median(figures[0]), median(figures[1])
	n.add(row{"node: CRI call, p50, ms", fmt.Sprintf("%.2f", ours), fmt.Sprintf("%.2f (direct)", direct),
		fmt.Sprintf("%+.2f ms", ours-direct), "at most 0.3 ms more", ours-direct <= 0.3})
	return nil
}

// besideDownloads measures the same while forwards carry downloads, against the same call straight to containerd
// while that carries as many. They go straight from the streaming servers to a program that throws them away, as
// fast as these are: behind the API server the node would rest most of the time.
func (n *nodeSide) besideDownloads(ctx context.Context) error {
	sockets := []string{n.ours(), n.containerd}
	for _, downloads := range []int{1, 128} {
		var p50, p99 [2][]float64
		for range n.runs {
			for i, socket := range sockets {
				times, err := n.callsBeside(ctx, socket, downloads)
				if err != nil {
					return err
				}
				p50[i], p99[i] = append(p50[i], median(times)), append(p99[i], quantile(times, 0.99))
			}
		}
		figure := fmt.Sprintf("node: CRI call beside %d downloads, ", downloads)
		ours, direct := median(p50[0]), median(p50[1])
		n.add(row{figure + "p50, ms", fmt.Sprintf("%.2f", ours), fmt.Sprintf("%.2f (direct, containerd's downloads)", direct),
			fmt.Sprintf("%+.2f ms", ours-direct), "at most 0.3 ms more", ours-direct <= 0.3})
		ours, direct = median(p99[0]), median(p99[1])
		n.add(row{figure + "p99, ms", fmt.Sprintf("%.2f", ours), fmt.Sprintf("%.2f (direct, containerd's downloads)", direct),
			fmt.Sprintf("%+.2f ms, %.2f", ours-direct, ours/direct), "at most 1.5 or 2 ms more", ours <= 1.5*direct || ours-direct <= 2})
	}
	return nil
}

// callsBeside times calls, with rests between them as a kubelet's have, while so many downloads go on.
func (n *nodeSide) callsBeside(ctx context.Context, socket string, downloads int) ([]float64, error) {
	load := exec.CommandContext(ctx, "/proc/self/exe", "load", socket, n.cluster.pod, n.cluster.port, fmt.Sprint(downloads))
	load.Stderr = os.Stderr
	begun, err := load.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := load.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = load.Process.Kill(); _ = load.Wait() }()
	if _, err := begun.Read(make([]byte, 1)); err != nil {
		return nil, fmt.Errorf("downloads: %w", err)
	}
	return callTimes(ctx, socket, 500, 2*time.Millisecond)
}

// downloadForever is the command `load`: it downloads from a pod's port, straight from the streaming server of the
// runtime at a socket, until it is killed. It says so when all downloads have begun.
func downloadForever(socket, pod, port, downloads string) error {
	n := &nodeSide{bench: &bench{cluster: cluster{pod: pod, port: port}}}
	client, err := n.tunnel(context.Background(), socket)
	if err != nil {
		return err
	}
	defer client.Close()
	count, err := strconv.Atoi(downloads)
	if err != nil {
		return err
	}
	var begun, loads sync.WaitGroup
	errs := make([]error, count)
	for i := range count {
		begun.Add(1)
		loads.Go(func() { errs[i] = downloadOne(client, n.portNumber(), begun.Done) })
	}
	begun.Wait()
	fmt.Println("downloading")
	loads.Wait()
	return errors.Join(errs...)
}

func downloadOne(client *portforward.Client, port uint16, begun func()) error {
	done := sync.OnceFunc(begun)
	defer done()
	c, err := client.Dial(context.Background(), target.TCPPort(port))
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(head(1 << 40)); err != nil { // more than there is time for
		return err
	}
	buf := make([]byte, chunk)
	for {
		if _, err := c.Read(buf); err != nil {
			return err
		}
		done()
	}
}

// callP50 is the median of so many calls, one after the other, in ms.
func callP50(ctx context.Context, socket string, calls int) (float64, error) {
	times, err := callTimes(ctx, socket, calls, 0)
	if err != nil {
		return 0, err
	}
	return median(times), nil
}

// callTimes are those of so many calls, with rests between them, in ms.
func callTimes(ctx context.Context, socket string, calls int, rest time.Duration) ([]float64, error) {
	client, err := dialRuntime(socket)
	if err != nil {
		return nil, err
	}
	defer client.conn.Close()
	var times []float64
	for call := range calls + 1 {
		start := time.Now()
		if _, err := client.Version(ctx, &cri.VersionRequest{}); err != nil {
			return nil, err
		}
		if call > 0 { // the first one connects
			times = append(times, time.Since(start).Seconds()*1e3)
		}
		time.Sleep(rest)
	}
	return times, nil
}

// socatMetrics is where the node with the other backend tells its figures.
const socatMetrics = "127.0.0.1:29755"

// backends compares opening a connection on the node, native against socat: what the
// nodes themselves say that connecting took, and from the opening in a tunnel that
// is there to the first byte back.
func (n *nodeSide) backends(ctx context.Context) error {
	socat := n.ours() + ".socat"
	other, err := n.startNode(ctx, socat, "--backend", "socat", "--metrics-address", socatMetrics)
	if err != nil {
		return err
	}
	defer stop(other)
	var dials []dialer
	for _, socket := range []string{n.ours(), socat} {
		client, err := n.tunnel(ctx, socket)
		if err != nil {
			return err
		}
		defer client.Close()
		dials = append(dials, func() (net.Conn, error) {
			c, err := client.Dial(ctx, target.TCPPort(n.portNumber()))
			if err != nil {
				return nil, err
			}
			return c.(net.Conn), nil
		})
	}
	before, err := connecting() // the bursts before it stood in line
	if err != nil {
		return err
	}
	times, err := n.alternate(dials, func(d dialer) (float64, error) { return connectP50(d, 50) })
	if err != nil {
		return err
	}
	after, err := connecting()
	if err != nil {
		return err
	}
	ratio := median(ratios(times[0], times[1]))
	n.add(row{"node: open to first byte on the node, p50, ms", fmt.Sprintf("%.3f", median(times[0])),
		fmt.Sprintf("%.3f (backend socat)", median(times[1])), fmt.Sprintf("1/%.0f", 1/ratio), "-", true})
	ours, socats := after[0].since(before[0]), after[1].since(before[1])
	ratio = ours / socats
	n.add(row{"node: opening a connection on the node, mean, ms", fmt.Sprintf("%.3f", ours),
		fmt.Sprintf("%.3f (backend socat)", socats), fmt.Sprintf("1/%.0f", 1/ratio), "at most 1/20", ratio <= 1.0/20})
	return nil
}

// spent is how many connections a node has opened, and the seconds that took.
type spent struct{ count, seconds float64 }

// since is the mean in ms since then.
func (s spent) since(then spent) float64 {
	return 1e3 * (s.seconds - then.seconds) / (s.count - then.count)
}

// connecting is what both nodes have counted, the native one first.
func connecting() (both [2]spent, err error) {
	for i, address := range []string{nodeMetrics, socatMetrics} {
		if both[i].seconds, err = metric(address, "porthole_forward_connect_seconds_sum"); err != nil {
			return both, err
		}
		if both[i].count, err = metric(address, "porthole_forward_connect_seconds_count"); err != nil {
			return both, err
		}
	}
	return both, nil
}

// tunnel is a client that has a tunnel to the bench's pod, straight from a node's CRI socket.
func (n *nodeSide) tunnel(ctx context.Context, socket string) (*portforward.Client, error) {
	runtime, err := dialRuntime(socket)
	if err != nil {
		return nil, err
	}
	defer runtime.conn.Close()
	sandboxes, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.name": n.cluster.pod},
		State:         &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, err
	}
	if len(sandboxes.Items) != 1 {
		return nil, fmt.Errorf("%d sandboxes of pod %s", len(sandboxes.Items), n.cluster.pod)
	}
	answer, err := runtime.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: sandboxes.Items[0].Id, Port: []int32{int32(n.portNumber())}})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(answer.Url)
	if err != nil {
		return nil, err
	}
	client := &portforward.Client{URL: u, Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	return client, client.Connect(ctx)
}

func (n *nodeSide) portNumber() (port uint16) {
	_, _ = fmt.Sscan(n.cluster.port, &port)
	return port
}
