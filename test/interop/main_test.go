// Package interop holds both ends of the port-forward protocol against those of
// Kubernetes itself: the runtime's streaming server, the API server's proxy and the
// client of kubectl, over loopback. It is a module of its own, so that the product does not carry theirs.
package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	apiproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"porthole.dev/porthole/internal/pipe"
	ours "porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	testenv.Main(m,
		goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		// The stock server's, for a tunnel that broke before its answer.
		goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Stream).waitWriteReply"),
		// The stock client's: it reports to nobody, for a second, how its closing went.
		goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).shutdown"),
		// And of either: bytes that came for a stream which nobody read when the
		// tunnel broke, and who waits for them to be taken.
		goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).handleDataFrame"),
		goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).Serve"),
		goleak.IgnoreAnyFunction("github.com/moby/spdystream.(*Connection).shutdown.func1"))
}

// runtime is what a container runtime does for the streaming server: it reaches
// ports, here of the loopback address.
type runtime struct {
	// linger, if not 0, is how long one direction goes on after the other has
	// ended, as containerd and CRI-O have it. 0 is for ever.
	linger time.Duration
}

func (r runtime) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := net.Dial("tcp4", fmt.Sprintf("localhost:%d", port))
	if err != nil {
		stream.Close() // containerd ends the stream before it says why
		return fmt.Errorf("failed to connect to localhost:%d: %w", port, err)
	}
	defer conn.Close()
	if r.linger > 0 {
		defer stream.Close()
		return lingering(conn, stream, r.linger)
	}
	return exact(conn.(*net.TCPConn), stream)
}

// lingering is the copying of containerd and CRI-O.
func lingering(conn net.Conn, stream io.ReadWriter, linger time.Duration) error {
	ended := make(chan error, 2)
	go func() { _, err := io.Copy(stream, conn); ended <- err }()
	go func() { _, err := io.Copy(conn, stream); ended <- err }()
	first := <-ended
	select {
	case second := <-ended:
		if first == nil {
			first = second
		}
	case <-time.After(linger):
	}
	return first
}

// exact ends each direction when it is at its end.
func exact(conn *net.TCPConn, stream io.ReadWriteCloser) error {
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		up <- errors.Join(err, conn.CloseWrite())
	}()
	if _, err := io.Copy(stream, conn); err != nil {
		return err // the streaming server resets the stream, which ends the other direction
	}
	stream.Close()
	return <-up
}

// cluster is an API server's proxy in front of a runtime's streaming server.
type cluster struct {
	api     *httptest.Server
	node    string       // the streaming server's own URL
	tunnels atomic.Int32 // opened

	mu    sync.Mutex
	conns []net.Conn // to the API server
}

func start(t testing.TB, r portforward.PortForwarder) *cluster {
	t.Helper()
	return startBefore(t, func(w http.ResponseWriter, req *http.Request) {
		portforward.ServePortForward(w, req, r, "pod", "", nil, time.Hour, 30*time.Second, portforward.SupportedProtocols)
	})
}

// startBefore starts an API server's proxy before a streaming server.
func startBefore(t testing.TB, streaming http.HandlerFunc) *cluster {
	t.Helper()
	c := &cluster{}
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c.tunnels.Add(1)
		streaming(w, req)
	}))
	c.node = node.URL
	location, err := url.Parse(node.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	spdy := apiproxy.NewUpgradeAwareHandler(location, transport, false, true, responder{})
	c.api = httptest.NewUnstartedServer(proxy.NewTranslatingHandler(spdy,
		proxy.NewTunnelingHandler(spdy), wsstream.IsWebSocketRequestWithTunnelingProtocol))
	c.api.Config.ConnState = c.note
	c.api.Start()
	t.Cleanup(func() {
		c.cut()
		c.api.Close()
		node.Close()
		transport.CloseIdleConnections()
	})
	return c
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusBadGateway)
}

func (c *cluster) note(conn net.Conn, state http.ConnState) {
	if state == http.StateNew {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
}

// cut breaks every connection to the API server.
func (c *cluster) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
}

func (c *cluster) client(t testing.TB, edit ...func(*ours.Client)) *ours.Client {
	t.Helper()
	u, err := url.Parse(c.api.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	client := &ours.Client{URL: u.JoinPath("api/v1/namespaces/default/pods/pod/portforward"), Transport: transport}
	for _, e := range edit {
		e(client)
	}
	t.Cleanup(func() {
		client.Close()
		transport.CloseIdleConnections()
	})
	return client
}

func spdyOnly(c *ours.Client)      { c.SPDYOnly = true }
func keepWebSocket(c *ours.Client) { c.KeepWebSocket = true }

// ways runs a test through a WebSocket and through SPDY's upgrade.
func ways(t *testing.T, test func(t *testing.T, way func(*ours.Client))) {
	t.Run("websocket", func(t *testing.T) { test(t, keepWebSocket) })
	t.Run("spdy", func(t *testing.T) { test(t, spdyOnly) })
}

func dial(t testing.TB, c *ours.Client, port uint16) pipe.Conn {
	t.Helper()
	conn, err := c.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// exchange sends bytes through a new connection and wants them back.
func exchange(c *ours.Client, port uint16, size int) error {
	conn, err := c.Dial(context.Background(), target.TCPPort(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		conn.Write(make([]byte, size))
		conn.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n != int64(size) {
		err = fmt.Errorf("%d of %d bytes came back, and an end of file", n, size)
	}
	return err
}

// within fails the test unless ok turns true in time: d where the machine has nothing else to do.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	d = max(d, testenv.Patience)
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("after %v still not: %s", d, what)
}
