package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	stock "k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// running is a Node that runs, and the runtime behind it.
type running struct {
	Addresses
	runtime runtimeServer
	cri     cri.RuntimeServiceClient
	log     *syncBuffer
	stop    func()
}

// startNode runs a Node until the test ends, with a sandbox "s1" in pod.
func startNode(t testing.TB, pod *testenv.Pod, n Node) *running {
	t.Helper()
	dir := t.TempDir()
	r := &running{log: &syncBuffer{}}
	r.runtime.add("s1", fmt.Sprintf(containerdInfo, pod.PID, fmt.Sprintf("/proc/%d/ns/net", pod.PID)))
	r.runtime.start(t, filepath.Join(dir, "runtime.sock"))
	n.Listen, n.Upstream = "unix://"+dir+"/cri.sock", "unix://"+dir+"/runtime.sock"
	n.Metrics, n.Events, n.Version = "127.0.0.1:0", "unix://"+dir+"/events.sock", "v1"
	n.Log = slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if n.DataPath == nil {
		n.DataPath = dataPathTo(r.log)
	}
	ready := make(chan Addresses, 1)
	n.Ready = func(a Addresses) { ready <- a }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case r.Addresses = <-ready:
	case err := <-done:
		t.Fatal("Run:", err)
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
		if left, _ := filepath.Glob(dir + "/*"); !slices.Equal(left, []string{dir + "/runtime.sock"}) && len(left) > 0 {
			t.Error("left behind:", left)
		}
		if strings.Contains(r.log.String(), "node: end of the data path") {
			t.Error("the data path did not end well:", r.log.String())
		}
	})
	t.Cleanup(r.stop)
	r.cri = cri.NewRuntimeServiceClient(callSocket(t, r.CRI))
	return r
}

// url asks for a forward, as the kubelet does.
func (r *running) url(t testing.TB, ports ...int32) *url.URL {
	t.Helper()
	response, err := r.cri.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: "s1", Port: ports})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(response.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// forwarded opens a forward to ports with the stock client, until the test ends or
// stop is called.
func (r *running) forwarded(t *testing.T, ports ...uint16) (local []string, stop func()) {
	t.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, r.url(t))
	var specs []string
	for _, p := range ports {
		specs = append(specs, fmt.Sprintf(":%d", p))
	}
	stopped, ready := make(chan struct{}), make(chan struct{})
	pf, err := stock.NewOnAddresses(dialer, []string{"127.0.0.1"}, specs, stopped, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pf.ForwardPorts() }()
	stop = sync.OnceFunc(func() { close(stopped); <-done })
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-done:
		t.Fatal("port-forward:", err)
	}
	got, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		local = append(local, fmt.Sprintf("127.0.0.1:%d", p.Local))
	}
	return local, stop
}

// syncBuffer is a buffer for many goroutines.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// waitFor waits until the buffer has the text.
func (b *syncBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(waitTime); !strings.Contains(b.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q in %q", text, b.String())
		}
	}
}

// echoing serves an echo inside pod.
func echoing(t *testing.T, pod *testenv.Pod) (port uint16) {
	t.Helper()
	l := pod.Listen(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }() // without kernel pipes, which Go keeps
		}
	}()
	return testenv.Port(l)
}

// say sends a text and returns as much of an answer.
func say(t *testing.T, address, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, text)
	answer := make([]byte, len(text))
	n, _ := io.ReadFull(c, answer)
	return string(answer[:n])
}

// A stock client's connection, from the kubelet's call to the last line of the log.
func TestForward(t *testing.T) {
	for _, backend := range []Backend{Native, Socat} {
		t.Run(string(backend), func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			port := echoing(t, pod)
			r := startNode(t, pod, Node{Backend: backend})
			records := follow(t, r.Events)
			local, stop := r.forwarded(t, port)
			if got := say(t, local[0], "hello"); got != "hello" {
				t.Errorf("echo %q", got)
			}
			opened, closed := <-records, <-records
			if opened.Event != EventOpened || opened.Network != "tcp" || opened.Port != port || opened.Pod != "kuard" || opened.Namespace != "default" ||
				opened.Client != "127.0.0.1" || opened.Protocol != "portforward.k8s.io" || opened.UserAgent == "" {
				t.Errorf("opened: %+v", opened)
			}
			if closed.Event != EventClosed || closed.Sent != 5 || closed.Received != 5 || closed.Result != resultOK {
				t.Errorf("closed: %+v", closed)
			}
			r.log.waitFor(t, fmt.Sprintf(`"msg":"node: forward closed","namespace":"default","pod":"kuard","sandbox":"s1","network":"tcp","port":%d,"client":"127.0.0.1","sent":5,"received":5,`, port))
			r.wantMetrics(t, `porthole_forwards_total{network="tcp",result="ok"} 1`, `porthole_forwards_open{network="tcp"} 0`,
				`porthole_forward_bytes_total{direction="sent",network="tcp"} 5`, `porthole_forward_bytes_total{direction="received",network="tcp"} 5`,
				`porthole_forwards_total{network="udp",result="ok"} 0`, `porthole_forward_datagrams_dropped_total 0`, `porthole_forward_connect_seconds_count 1`, `porthole_cri_upstream_up 1`,
				`porthole_cri_requests_total{code="OK",method="PortForward"} 1`, `porthole_build_info{goversion="go`)
			stop()
			if token := strings.TrimPrefix(r.url(t).Path, "/portforward/"); strings.Contains(r.log.String(), token) {
				t.Error("a token is in the log")
			}
			r.stop()
		})
	}
}

// Our own client at the other end: the answer to a half-closed request comes whole.
func TestForwardToOurs(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	port := answer(t, pod, func(c *net.TCPConn) {
		request, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "answer to %s", request)
	})
	r := startNode(t, pod, Node{})
	records := follow(t, r.Events)
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
	defer client.Close()
	conn, err := client.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "answer to hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	_ = conn.Close()
	<-records
	if closed := <-records; closed.Protocol != "porthole.v1" || closed.Result != resultOK || closed.Sent != 5 || closed.Received != 15 {
		t.Errorf("closed: %+v", closed)
	}
	_ = client.Close()
	r.stop()
}

// follow reads events until the test ends.
func follow(t *testing.T, path string) <-chan Record {
	t.Helper()
	records, following := make(chan Record, 100), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = Follow(ctx, path, func(r Record) error {
			if r.Event == EventFollowing {
				close(following)
			} else {
				records <- r
			}
			return nil
		})
	}()
	<-following
	t.Cleanup(func() { cancel(); <-done })
	return records
}

// wantMetrics waits for lines of the metrics: an answer may come before it is counted.
func (r *running) wantMetrics(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		testenv.Await(t, line+" in the metrics", func() bool { return strings.Contains(scrape(t, r.Metrics), line) })
	}
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What the client of a connection that cannot be is told, the stock one here.
func TestForwardFails(t *testing.T) {
	deny, _ := target.ParsePortSet("22")
	for _, test := range []struct {
		name   string
		node   Node
		port   uint16
		kill   bool   // the pod
		path   string // of programs
		want   string
		result string
	}{
		{"refused", Node{}, 9, false, "",
			"error forwarding port 9 to pod s1, uid : dial tcp 127.0.0.1:9: connect: connection refused", resultRefused},
		{"refused to socat", Node{Backend: Socat}, 9, false, "", "Connection refused", resultRefused},
		{"denied", Node{Policy: Policy{Deny: deny}}, 22, false, "",
			"error forwarding port 22 to pod s1, uid : port 22 is denied by the node's policy (--deny-ports)", resultDenied},
		{"gone", Node{}, 80, true, "",
			"error forwarding port 80 to pod s1, uid : the pod's network namespace is gone: ", resultNoSandbox},
		{"no socat", Node{Backend: Socat}, 80, false, "/nowhere",
			"error forwarding port 80 to pod s1, uid : unable to do port forwarding: socat not found.", resultFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			t.Setenv("PATH", cmp.Or(test.path, os.Getenv("PATH")))
			r := startNode(t, pod, test.node)
			records := follow(t, r.Events)
			client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true, MaxTunnels: 1}
			defer client.Close()
			if test.kill {
				pod.Kill()
			}
			conn, err := client.Dial(t.Context(), target.TCPPort(test.port))
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(conn)
			_ = conn.Close()
			var refusal *tunnel.PortError
			if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Text, "error forwarding port ") || !strings.Contains(refusal.Text, test.want) {
				t.Errorf("the client is told %v, want %q", err, test.want)
			}
			if last := <-records; last.Event != EventFailed || last.Result != test.result || last.Error == "" {
				t.Errorf("record %+v, want result %s", last, test.result)
			}
			r.wantMetrics(t, fmt.Sprintf(`porthole_forwards_total{network="tcp",result=%q} 1`, test.result), `porthole_forwards_open{network="tcp"} 0`)
			_ = client.Close()
			r.stop()
		})
	}
}

// Clients that hang up while their port is dialed were never connected: nothing was
// opened that could be closed.
func TestHangUpDuringDial(t *testing.T) {
	for _, hangUp := range []struct {
		name string
		do   func(*portforward.Client, pipe.Conn)
	}{
		{"connection", func(_ *portforward.Client, c pipe.Conn) { _ = pipe.Reset(c) }},
		{"tunnel", func(c *portforward.Client, _ pipe.Conn) { _ = c.Close() }},
	} {
		t.Run(hangUp.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			port := silentPort(t, pod)
			r := startNode(t, pod, Node{})
			records := follow(t, r.Events)
			for range 3 {
				client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true}
				conn, err := client.Dial(t.Context(), target.TCPPort(port))
				if err != nil {
					t.Fatal(err)
				}
				pod.AwaitConnecting(t, port)
				hangUp.do(client, conn)
				if last := <-records; last.Event != EventFailed || last.Result != resultLost && last.Result != resultReset {
					t.Errorf("record %+v", last)
				}
				_ = client.Close()
			}
			r.log.waitFor(t, `"msg":"node: forward failed"`)
			r.wantMetrics(t, `porthole_forwards_open{network="tcp"} 0`)
			r.stop()
		})
	}
}

// silentPort is a port in the pod that answers no connect: it accepts nobody, and its
// queue is full.
func silentPort(t *testing.T, pod *testenv.Pod) (port uint16) {
	t.Helper()
	var fd int
	err := pod.NS.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		return unix.Listen(fd, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port = uint16(at.(*unix.SockaddrInet4).Port)
	first, err := pod.NS.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Close() })
	return port
}

// A pod on the node's network is refused by where it is, also if the runtime says
// nothing of its namespaces; one with a network of its own is not.
func TestDenyHostNetwork(t *testing.T) {
	own := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	for _, backend := range []Backend{Native, Socat} {
		for what, info := range map[string]string{
			"by path": fmt.Sprintf(containerdInfo, os.Getpid(), own), "by process": fmt.Sprintf(containerdHostInfo, os.Getpid()),
			"by path alone": fmt.Sprintf(crioInfo, 0, own),
		} {
			t.Run(string(backend)+" "+what, func(t *testing.T) {
				testenv.NoLeaks(t)
				pod := testenv.NewPod(t)
				r := startNode(t, pod, Node{Backend: backend, Policy: Policy{DenyHostNetwork: true}})
				served := answer(t, pod, func(c *net.TCPConn) { _, _ = io.WriteString(c, "x") })
				if err := r.dialOnce(t, served); err != nil {
					t.Error("a pod with its own network:", err)
				}
				r.runtime.add("s1", info).Linux = nil
				here, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer here.Close()
				if err := r.dialOnce(t, testenv.Port(here)); !errors.Is(err, tunnel.ErrDenied) ||
					!strings.Contains(err.Error(), "(--deny-host-network)") {
					t.Errorf("a pod on the node's network: %v, want ErrDenied", err)
				}
				r.stop()
			})
		}
	}
}

// dialOnce has a byte sent and waits for one of the answer, which nobody gives
// that only listens.
func (r *running) dialOnce(t *testing.T, port uint16) error {
	t.Helper()
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true}
	defer client.Close()
	conn, err := client.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(net.Conn).SetDeadline(time.Now().Add(waitTime))
	if _, err := io.WriteString(conn, "x"); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestPortForwardFails(t *testing.T) {
	testenv.NoLeaks(t)
	r := startNode(t, testenv.NewPod(t), Node{})
	r.runtime.add("stopped", "").State = cri.PodSandboxState_SANDBOX_NOTREADY
	for _, test := range []struct {
		id   string
		port []int32
		want codes.Code
	}{
		{"", nil, codes.InvalidArgument},
		{"s1", []int32{0}, codes.InvalidArgument},
		{"s1", []int32{65536}, codes.InvalidArgument},
		{"unknown", nil, codes.NotFound},
		{"stopped", nil, codes.FailedPrecondition},
	} {
		_, err := r.cri.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: test.id, Port: test.port})
		if status.Code(err) != test.want {
			t.Errorf("PortForward(%q, %v) = %v, want %v", test.id, test.port, err, test.want)
		}
	}
}

// Connections that never say anything are bounded, and forwards go on beside them.
func TestHalfOpen(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	r := startNode(t, pod, Node{})
	var conns []net.Conn
	for range maxPending / 2 {
		c, err := net.Dial("tcp", r.Streaming)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	local, stop := r.forwarded(t, echoing(t, pod))
	if got := say(t, local[0], "hello"); got != "hello" {
		t.Errorf("echo %q", got)
	}
	for range maxPending {
		c, err := net.Dial("tcp", r.Streaming)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	first := conns[0]
	_ = first.SetReadDeadline(time.Now().Add(waitTime))
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest does not give way: %v", err)
	}
	if got := say(t, local[0], "hello"); got != "hello" {
		t.Errorf("echo %q", got)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	stop()
	r.stop()
}

// The end of a node is the end of its forwards, at once and with nothing left.
func TestStopWhileForwarding(t *testing.T) {
	testenv.NoLeaks(t)
	pod := testenv.NewPod(t)
	r := startNode(t, pod, Node{})
	local, _ := r.forwarded(t, echoing(t, pod))
	c, err := net.Dial("tcp", local[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "x")
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	_ = c.SetReadDeadline(time.Now().Add(waitTime))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %v after the end", err)
	}
	r.log.waitFor(t, `"msg":"node: forward closed"`)
	if strings.Contains(r.log.String(), `"result":"ok"`) {
		t.Error("a connection that was cut counts as ok")
	}
}

func TestRunErrors(t *testing.T) {
	testenv.Root(t)
	testenv.NoLeaks(t)
	dir := t.TempDir()
	regular := filepath.Join(dir, "regular")
	if err := os.WriteFile(regular, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	good := Node{
		Listen: "unix://" + dir + "/cri.sock", Upstream: "unix://" + dir + "/runtime.sock", DataPath: dataPathTo(io.Discard),
	}
	for name, test := range map[string]struct {
		change func(*Node)
		want   error
	}{
		"no listen":           {func(n *Node) { n.Listen = "" }, ErrEndpoint},
		"no upstream":         {func(n *Node) { n.Upstream = "" }, ErrEndpoint},
		"bad events":          {func(n *Node) { n.Events = "tcp://x" }, ErrEndpoint},
		"bad docker":          {func(n *Node) { n.Docker = "x" }, ErrEndpoint},
		"backend":             {func(n *Node) { n.Backend = "magic" }, ErrBackend},
		"streaming anywhere":  {func(n *Node) { n.Streaming = "0.0.0.0:0" }, ErrLoopback},
		"streaming by name":   {func(n *Node) { n.Streaming = "localhost:0" }, ErrLoopback},
		"streaming malformed": {func(n *Node) { n.Streaming = "127.0.0.1" }, ErrListen},
		"streaming taken":     {func(n *Node) { n.Streaming = taken }, ErrListen},
		"metrics taken":       {func(n *Node) { n.Metrics = taken }, ErrListen},
		"not a socket":        {func(n *Node) { n.Listen = "unix://" + regular }, ErrNotSocket},
		"events not a socket": {func(n *Node) { n.Events = "unix://" + regular }, ErrNotSocket},
		"itself":              {func(n *Node) { n.Upstream = n.Listen }, ErrInUse},
	} {
		t.Run(name, func(t *testing.T) {
			n := good
			test.change(&n)
			n.Ready = func(Addresses) { t.Error("it runs") }
			ctx, cancel := context.WithTimeout(t.Context(), waitTime)
			defer cancel()
			if err := n.Run(ctx); !errors.Is(err, test.want) {
				t.Errorf("Run = %v, want %v", err, test.want)
			}
		})
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 1 {
		t.Error("left behind:", left)
	}
}

func TestMetricsFollowConventions(t *testing.T) {
	m := newProxyMetrics("v1", criMethods(), func() bool { return true })
	m.request(cri.RuntimeService_Version_FullMethodName, codes.OK)
	m.request("/runtime.v9.Service/Unheard", codes.Unimplemented)
	m.request("/runtime.v9.Service/Of", codes.Code(4711))
	problems, err := testutil.GatherAndLint(prometheus.Gatherers{m.registry, newForwardMetrics(new(portforward.Server).Load).registry})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "porthole_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if n, err := testutil.GatherAndCount(m.registry, "porthole_cri_requests_total"); err != nil || n != 3 {
		t.Errorf("%d series of requests, %v", n, err)
	}
}
