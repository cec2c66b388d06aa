package portforward

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m)
}

// server is a port-forward server over loopback HTTP whose tunnels and
// connections do as the test says.
type server struct {
	serve func(*request) // for each connection, on a goroutine of its own
	// answer, if set, may answer a request itself and return true.
	answer func(http.ResponseWriter, *http.Request) bool

	http *httptest.Server
	work sync.WaitGroup

	mu      sync.Mutex
	methods []string // of the requests that came
	tunnels []*spdy.Conn
	stopped bool // takes no more tunnels
}

// request is a connection as its server sees it.
type request struct {
	port       uint16
	tunnel     *spdy.Conn
	data, text *spdy.Stream
}

// fail does what a stock server does with an error: its words on the error stream,
// and a reset of both.
func (r *request) fail(words string) {
	io.WriteString(r.text, words)
	r.data.Reset()
	r.text.Reset()
}

// finish ends both streams, as a stock server does.
func (r *request) finish() {
	r.text.Close()
	r.data.CloseWrite()
}

// echo sends everything back.
func echo(r *request) {
	io.Copy(r.data, r.data)
	r.finish()
}

func start(t testing.TB, serve func(*request)) *server {
	t.Helper()
	s := &server{serve: serve}
	s.http = httptest.NewServer(s)
	t.Cleanup(s.stop)
	return s
}

func (s *server) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.http.Close() // which does not wait for requests that were upgraded
	s.cut()
	s.work.Wait()
}

// cut breaks all tunnels.
func (s *server) cut() {
	for _, c := range s.all() {
		c.Close()
	}
}

func (s *server) all() []*spdy.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*spdy.Conn(nil), s.tunnels...)
}

// open returns how many tunnels live.
func (s *server) open() (n int) {
	for _, c := range s.all() {
		if c.Err() == nil {
			n++
		}
	}
	return n
}

// opened returns how many tunnels there ever were.
func (s *server) opened() int { return len(s.all()) }

func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.methods...)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.methods = append(s.methods, r.Method)
	s.mu.Unlock()
	if s.answer != nil && s.answer(w, r) {
		return
	}
	var rwc io.ReadWriteCloser
	if r.Method == http.MethodGet {
		rwc = acceptWebSocket(w, r)
	} else {
		rwc = acceptSPDY(w)
	}
	if rwc != nil {
		s.add(spdy.New(rwc, spdy.Config{Server: true}))
	}
}

func acceptWebSocket(w http.ResponseWriter, r *http.Request) io.ReadWriteCloser {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{webSocketProtocol}})
	if err != nil {
		return nil
	}
	ws.SetReadLimit(-1)
	return websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
}

func acceptSPDY(w http.ResponseWriter) io.ReadWriteCloser {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return nil
	}
	buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" +
		"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: " + protocol + "\r\n\r\n")
	buffered.Flush()
	return conn
}

func (s *server) add(c *spdy.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		c.Close()
		return
	}
	s.tunnels = append(s.tunnels, c)
	s.work.Go(func() { s.accept(c) })
}

// accept pairs the streams of a tunnel and serves them.
func (s *server) accept(c *spdy.Conn) {
	texts := map[string]*spdy.Stream{}
	for {
		stream, err := c.Accept(context.Background())
		if err != nil {
			return
		}
		id := stream.Headers().Get("requestID")
		if stream.Headers().Get("streamType") == "error" {
			texts[id] = stream
			continue
		}
		port, _ := strconv.ParseUint(stream.Headers().Get("port"), 10, 16)
		r := &request{port: uint16(port), tunnel: c, data: stream, text: texts[id]}
		delete(texts, id)
		s.work.Go(func() { s.serve(r) })
	}
}

// client returns a Client of the server. edit may change it before its use.
func (s *server) client(t testing.TB, edit ...func(*Client)) *Client {
	t.Helper()
	u, err := url.Parse(s.http.URL + "/portforward")
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, u, edit...)
}

func newClient(t testing.TB, u *url.URL, edit ...func(*Client)) *Client {
	t.Helper()
	transport := &http.Transport{}
	c := &Client{URL: u, Transport: transport}
	for _, e := range edit {
		e(c)
	}
	t.Cleanup(func() {
		c.Close()
		transport.CloseIdleConnections()
	})
	return c
}

func spdyOnly(c *Client)      { c.SPDYOnly = true }
func keepWebSocket(c *Client) { c.KeepWebSocket = true }

// ways runs a test through a WebSocket and through SPDY's upgrade.
func ways(t *testing.T, test func(t *testing.T, way func(*Client))) {
	t.Run("websocket", func(t *testing.T) { test(t, keepWebSocket) })
	t.Run("spdy", func(t *testing.T) { test(t, spdyOnly) })
}

func dial(t testing.TB, c *Client, port uint16) *stockConn {
	t.Helper()
	conn, err := c.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*stockConn)
}

// exchange sends a line through a new connection and wants it back.
func exchange(t testing.TB, c *Client) {
	t.Helper()
	conn := dial(t, c, 80)
	mustWrite(t, conn, "hello")
	mustRead(t, conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Fatalf("read %q, %v", b, err)
	}
	conn.Close()
}

// heldUp returns the address of a way to target on which nothing comes back while back is locked.
func heldUp(t testing.TB, target string, back *sync.Mutex) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target)
			if err != nil {
				a.Close()
				continue
			}
			work.Go(func() { _, _ = io.Copy(b, a); b.(pipe.Conn).CloseWrite() })
			work.Go(func() { _, _ = io.Copy(patientWriter{a, back}, b); a.Close(); b.Close() })
		}
	})
	return l.Addr().String()
}

// patientWriter writes while nobody else has the lock.
type patientWriter struct {
	io.Writer
	lock sync.Locker
}

func (w patientWriter) Write(p []byte) (int, error) {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.Writer.Write(p)
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

func mustWrite(t testing.TB, w io.Writer, p string) {
	t.Helper()
	if _, err := io.WriteString(w, p); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}
