package portforward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// loopback reaches ports of this machine, except for those that err knows.
type loopback struct {
	err func(port uint16) error
}

func (l loopback) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if l.err != nil {
		if err := l.err(to.Port); err != nil {
			return nil, err
		}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", to.Port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// node is a Server over loopback HTTP, with something before it that expects
// an upgrade for each request to /pod, as an API server has.
type node struct {
	Server
	Pending PendingUpgrade // for all
	writes  *atomic.Int64  // counts the writes to clients, if set
	http    *httptest.Server

	mu     sync.Mutex
	refuse string   // a method of requests to refuse
	asked  []string // methods of the requests that came
	events []Event
	done   int
	conns  []net.Conn // that were accepted
}

func newNode(t testing.TB, edit ...func(*node)) *node {
	t.Helper()
	n := &node{Pending: PendingUpgrade{Dialer: loopback{}, Pod: "4f2a"}}
	n.Pending.Events = n.note
	n.Pending.Done = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.done++
	}
	for _, e := range edit {
		e(n)
	}
	n.http = httptest.NewUnstartedServer(http.HandlerFunc(n.serve))
	n.http.Config.ConnState = func(c net.Conn, state http.ConnState) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if state == http.StateNew {
			n.conns = append(n.conns, c)
		}
	}
	if n.writes != nil {
		n.http.Listener = countingListener{n.http.Listener, n.writes}
	}
	n.http.Start()
	t.Cleanup(func() {
		n.Close()
		n.http.Close()
	})
	return n
}

func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.asked = append(n.asked, r.Method)
	refused := r.Method == n.refuse
	n.mu.Unlock()
	if refused {
		http.Error(w, "not this way", http.StatusForbidden)
		return
	}
	if r.URL.Path == "/pod" {
		path, err := n.Expect(n.Pending)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		r.URL.Path = path
	}
	n.ServeHTTP(w, r)
}

func (n *node) note(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// told are the events so far: those of openings, and those of ends.
func (n *node) told() (opened, ended []Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Stage == tunnel.Opened {
			opened = append(opened, e)
		} else {
			ended = append(ended, e)
		}
	}
	return opened, ended
}

// hasOpened reports whether a port has been reached.
func (n *node) hasOpened() bool { opened, _ := n.told(); return len(opened) > 0 }

func (n *node) client(t testing.TB, edit ...func(*Client)) *Client {
	t.Helper()
	u, err := url.Parse(n.http.URL + "/pod")
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, u, edit...)
}

// remote is what a Client's Conn is with either protocol.
type remote interface {
	net.Conn
	CloseWrite() error
	Reset() error
	io.WriterTo
}

func reach(t testing.TB, c *Client, port uint16) remote {
	t.Helper()
	conn, err := c.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	return conn.(remote)
}

func tunnelOf(conn net.Conn) *spdy.Conn {
	if c, ok := conn.(*tunnel.Conn); ok {
		return c.Tunnel().Conn
	}
	return conn.(*stockConn).tunnel.conn
}

// stockOnly is a transport that leaves our protocol out of what the client offers.
type stockOnly struct{ http.RoundTripper }

func (s stockOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Method == http.MethodPost {
		r.Header["X-Stream-Protocol-Version"] = []string{protocol}
	} else {
		r.Header["Sec-Websocket-Protocol"] = []string{webSocketProtocol}
	}
	return s.RoundTripper.RoundTrip(r)
}

// forms runs a test with both protocols, each through a WebSocket and through SPDY's
// upgrade.
func forms(t *testing.T, test func(t *testing.T, form func(*Client))) {
	t.Run("v1", func(t *testing.T) { ways(t, test) })
	t.Run("stock", func(t *testing.T) {
		ways(t, func(t *testing.T, way func(*Client)) {
			test(t, func(c *Client) {
				way(c)
				c.Transport = stockOnly{c.Transport}
			})
		})
	})
}

// The answer comes long after the question's end, exactly once and whole.
func TestNodeHalfClose(t *testing.T) {
	t.Parallel()
	forms(t, func(t *testing.T, form func(*Client)) {
		t.Parallel()
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			question, _ := io.ReadAll(conn)
			time.Sleep(3 * time.Second)
			conn.Write(append(question, '!'))
		})
		n := newNode(t)
		conn := reach(t, n.client(t, form), port)
		mustWrite(t, conn, "question")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "question!" {
			t.Errorf("read %q, %v", got, err)
		}
		conn.Close()
		within(t, 5*time.Second, "the end is told", func() bool { _, ended := n.told(); return len(ended) == 1 })
		opened, ended := n.told()
		e := ended[0]
		if len(opened) != 1 || e.Err != nil || e.Sent != 8 || e.Received != 9 || e.To.Port != port || e.Client != "127.0.0.1" {
			t.Errorf("events %+v, %+v", opened, ended)
		}
	})
}

// The port ends first, and the upload goes on to its own end.
func TestNodePortHalfCloses(t *testing.T) {
	forms(t, func(t *testing.T, form func(*Client)) {
		t.Parallel()
		uploaded := make(chan int64, 1)
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			io.WriteString(conn, "enough")
			conn.CloseWrite()
			n, _ := io.Copy(io.Discard, conn)
			uploaded <- n
		})
		conn := reach(t, newNode(t).client(t, form), port)
		defer conn.Close()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "enough" {
			t.Fatalf("read %q, %v", got, err)
		}
		mustWrite(t, conn, strings.Repeat("x", 4<<20))
		conn.CloseWrite()
		if n := <-uploaded; n != 4<<20 {
			t.Errorf("%d bytes arrived", n)
		}
	})
}

func TestNodeRefused(t *testing.T) {
	forms(t, func(t *testing.T, form func(*Client)) {
		n := newNode(t)
		c := n.client(t, form)
		port := testenv.FreePort(t)
		for range 20 {
			conn := reach(t, c, port)
			_, err := io.ReadAll(conn)
			var refused *tunnel.PortError
			if !errors.As(err, &refused) || !errors.Is(err, syscall.ECONNREFUSED) ||
				!strings.HasPrefix(refused.Text, fmt.Sprintf("error forwarding port %d to pod 4f2a, uid : ", port)) {
				t.Fatalf("read: %v", err)
			}
			conn.Close()
		}
		within(t, 5*time.Second, "the ends are told", func() bool { _, ended := n.told(); return len(ended) == 20 })
		if opened, ended := n.told(); len(opened) != 0 || !errors.Is(ended[0].Err, syscall.ECONNREFUSED) {
			t.Errorf("events %+v, %+v", opened, ended)
		}
	})
}

// Whoever resets a connection, the other side sees a reset, and the tunnel lives on.
func TestNodeResets(t *testing.T) {
	forms(t, func(t *testing.T, form func(*Client)) {
		t.Parallel()
		seen := make(chan error, 1)
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			conn.Write([]byte("half"))
			var b [1]byte
			conn.Read(b[:])
			if b[0] == 'r' {
				conn.SetLinger(0)
				return
			}
			_, err := conn.Read(b[:])
			seen <- err
		})
		c := newNode(t).client(t, form, func(c *Client) { c.MaxTunnels = 1 })
		conn := reach(t, c, port)
		mustWrite(t, conn, "r")
		mustRead(t, conn, "half")
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrReset) {
			t.Errorf("read: %v", err)
		}
		conn.Close()
		conn = reach(t, c, port)
		mustWrite(t, conn, "c")
		mustRead(t, conn, "half")
		conn.Reset()
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("port reads: %v", err)
		}
		exchangeWith(t, c, testenv.ServeTCP(t, testenv.Echo), 1000)
	})
}

// exchangeWith sends bytes through a new connection and wants them back.
func exchangeWith(t testing.TB, c *Client, port uint16, size int) {
	t.Helper()
	conn, err := c.Dial(context.Background(), target.TCPPort(port))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	go func() {
		conn.Write(make([]byte, size))
		conn.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != int64(size) {
		t.Errorf("%d of %d bytes came back, %v", n, size, err)
	}
}

func TestNodeManyAtOnce(t *testing.T) {
	forms(t, func(t *testing.T, form func(*Client)) {
		c := newNode(t).client(t, form)
		port := testenv.ServeTCP(t, testenv.Echo)
		var work sync.WaitGroup
		for range 200 {
			work.Go(func() { exchangeWith(t, c, port, 10_000) })
		}
		work.Wait()
	})
}

// Whatever is queued in either direction, a client that goes away takes its pods'
// connections along.
func TestNodeClientGoes(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(*net.TCPConn){
		"port floods":    func(conn *net.TCPConn) { io.Copy(conn, endless{}) },
		"port is silent": func(conn *net.TCPConn) { io.Copy(io.Discard, conn) },
		"port takes nothing": func(conn *net.TCPConn) {
			for { // without reading, the loss shows by writing only
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			forms(t, func(t *testing.T, form func(*Client)) {
				t.Parallel()
				gone := make(chan struct{})
				port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
					serve(conn)
					close(gone)
				})
				n := newNode(t)
				conn := reach(t, n.client(t, form), port)
				go conn.Write(make([]byte, 32<<20))
				within(t, 10*time.Second, "connection", n.hasOpened)
				time.Sleep(300 * time.Millisecond) // for queues to fill
				tunnelOf(conn).Close()
				within(t, 10*time.Second, "the port's connection ends", func() bool { return isDone(gone) })
				within(t, 10*time.Second, "the end is told", func() bool { _, ended := n.told(); return len(ended) == 1 })
				if _, ended := n.told(); ended[0].Err == nil {
					t.Error("no error is told")
				}
				within(t, 10*time.Second, "offer done", func() bool {
					n.mu.Lock()
					defer n.mu.Unlock()
					return n.done > 0
				})
			})
		})
	}
}

// The same where nothing moves: the client's farewell is stuck behind what nobody
// reads, and shows only because the Server writes to it.
func TestNodeClientGoesFromDeafPort(t *testing.T) {
	t.Parallel()
	forms(t, func(t *testing.T, form func(*Client)) {
		t.Parallel()
		stuck := make(chan struct{})
		port := testenv.ServeTCP(t, func(*net.TCPConn) { <-stuck })
		t.Cleanup(func() { close(stuck) })
		n := newNode(t)
		conn := reach(t, n.client(t, form), port)
		go conn.Write(make([]byte, 256<<20))
		within(t, 10*time.Second, "connection", n.hasOpened)
		time.Sleep(time.Second) // for queues to fill
		tunnelOf(conn).Close()
		within(t, 10*time.Second, "the end is told", func() bool { _, ended := n.told(); return len(ended) == 1 })
	})
}

// Close ends what is there, and takes nothing more.
func TestNodeClose(t *testing.T) {
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) { io.Copy(io.Discard, conn) })
	n := newNode(t)
	c := n.client(t)
	conn := reach(t, c, port)
	mustWrite(t, conn, "x")
	within(t, 5*time.Second, "connection", n.hasOpened)
	n.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrTunnel) {
		t.Errorf("read: %v", err)
	}
	if _, err := n.Expect(n.Pending); !errors.Is(err, net.ErrClosed) {
		t.Errorf("offer: %v", err)
	}
}

func TestNodeIdle(t *testing.T) {
	n := newNode(t, func(n *node) { n.IdleTime = 200 * time.Millisecond })
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
		b := make([]byte, 1)
		conn.Read(b)
		time.Sleep(600 * time.Millisecond)
		conn.Write(b)
	})
	c := n.client(t)
	var conn remote
	within(t, 5*time.Second, "a connection before its new tunnel has been idle for too long", func() bool {
		conn = reach(t, c, port)
		_, werr := conn.Write([]byte("x"))
		_, rerr := io.ReadFull(conn, make([]byte, 1))
		return errors.Join(werr, rerr) == nil
	})
	if tunnelOf(conn).Err() != nil {
		t.Error("tunnel with a connection was closed")
	}
	conn.Close()
	within(t, 5*time.Second, "tunnel closed", func() bool { return tunnelOf(conn).Err() != nil })
}

// ask sends lines of HTTP by hand and returns the answer.
func (n *node) ask(t *testing.T, request string) (status int, header http.Header, rest *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", n.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testenv.Patience))
	mustWrite(t, conn, request)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header, r
}

func TestNodeRefusesUpgrades(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: node\r\n"
	const upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
	const ws = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"no upgrade":         {"GET /pod" + host + "\r\n", 400},
		"other upgrade":      {"GET /pod" + host + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400},
		"no protocol":        {"POST /pod" + host + upgrade + "\r\n", 400},
		"empty protocol":     {"POST /pod" + host + upgrade + "X-Stream-Protocol-Version: , \r\n\r\n", 400},
		"other protocol":     {"POST /pod" + host + upgrade + "X-Stream-Protocol-Version: v5.channel.k8s.io\r\n\r\n", 403},
		"other method":       {"PUT /pod" + host + upgrade + "X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", 405},
		"a body":             {"POST /pod" + host + upgrade + "X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 1\r\n\r\nx", 400},
		"no such path":       {"POST /podd" + host + upgrade + "X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", 404},
		"no such token":      {"POST /portforward/x" + host + upgrade + "X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", 404},
		"no token":           {"POST /portforward/" + host + upgrade + "X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n", 404},
		"other WebSocket":    {"GET /pod" + host + ws + "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n", 403},
		"no key":             {"GET /pod" + host + strings.Replace(ws, "Sec-WebSocket-Key", "X", 1) + "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n", 400},
		"WebSocket by POST":  {"POST /pod" + host + ws + "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n", 405},
		"channels, no ports": {"GET /pod" + host + ws + "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n", 400},
		"channels, bad port": {"GET /pod?ports=0" + host + ws + "\r\n", 400},
		"too many ports":     {"GET /pod?ports=1" + strings.Repeat(",1", 40) + host + ws + "\r\n", 400},
		"oversized headers":  {"POST /pod" + host + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			status, header, _ := n.ask(t, test.request)
			if status != test.status {
				t.Errorf("status %d", status)
			}
			if accepted := header["X-Accepted-Stream-Protocol-Versions"]; name == "other protocol" && len(accepted) != 3 {
				t.Errorf("accepted %q", accepted)
			}
			n.pending.mu.Lock()
			defer n.pending.mu.Unlock()
			if len(n.pending.all) != 0 {
				t.Error("the token was left")
			}
		})
	}
}

// The protocol is found wherever it stands, and what follows the request at once is
// not lost.
func TestNodeNegotiates(t *testing.T) {
	for _, lines := range []string{
		"X-Stream-Protocol-Version: portforward.k8s.io\r\n",
		"X-Stream-Protocol-Version: v9.k8s.io\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n",
		"x-stream-protocol-version: v9.k8s.io ,portforward.k8s.io\r\n",
	} {
		n := newNode(t)
		ping := "\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01"
		status, header, r := n.ask(t, "POST /pod HTTP/1.1\r\nHost: node\r\nConnection: keep-alive, upgrade\r\nUpgrade: spdy/3.1\r\n"+lines+"\r\n"+ping)
		if status != http.StatusSwitchingProtocols || header.Get("X-Stream-Protocol-Version") != protocol || header.Get("Upgrade") != "SPDY/3.1" {
			t.Errorf("%q: %d, %v", lines, status, header)
		}
		mustRead(t, r, ping)
	}
}

// A token serves once, for some time, and there are only so many.
func TestTokens(t *testing.T) {
	done := make(chan struct{}, 10)
	s := &Server{TokenTime: 2 * time.Second, MaxPending: 2}
	defer s.Close()
	offer := PendingUpgrade{Dialer: loopback{}, Done: func() { done <- struct{}{} }}
	first, err := s.Expect(offer)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := s.Expect(offer)
	if first == second || len(first) < len("/portforward/")+26 {
		t.Errorf("tokens %s and %s", first, second)
	}
	if _, err := s.Expect(offer); !errors.Is(err, ErrTooManyPending) {
		t.Errorf("third: %v", err)
	}
	status := func(path string) int {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		return w.Code
	}
	if got := status(first); got != 400 {
		t.Errorf("first use: %d", got)
	}
	if got := status(first); got != 404 {
		t.Errorf("second use: %d", got)
	}
	<-done
	<-done // by its time
	if got := status(second); got != 404 {
		t.Errorf("late use: %d", got)
	}
	within(t, 5*time.Second, "timer gone", func() bool {
		s.pending.mu.Lock()
		defer s.pending.mu.Unlock()
		return s.pending.timer == nil && len(s.pending.all) == 0
	})
	if _, err := s.Expect(offer); err != nil {
		t.Error(err)
	}
	s.Close()
	<-done
}

// The stock protocol can be asked for where the node speaks porthole.v1.
func TestStockOnly(t *testing.T) {
	testenv.NoGoroutines(t)
	udp := target.Address{Network: target.UDP, Port: 53}
	ways(t, func(t *testing.T, way func(*Client)) {
		n := newNode(t)
		if err := n.client(t, way).Carries(t.Context(), udp); err != nil {
			t.Errorf("porthole.v1: %v", err)
		}
		stock := n.client(t, way, func(c *Client) { c.StockOnly = true })
		if err := stock.Carries(t.Context(), udp); !errors.Is(err, target.ErrUnsupported) {
			t.Errorf("the stock protocol: %v", err)
		}
	})
}
