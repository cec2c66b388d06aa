package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

func TestUpgrade(t *testing.T) {
	ways(t, func(t *testing.T, way func(*Client)) {
		s := start(t, echo)
		c := s.client(t, way)
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		exchange(t, c)
		want := "GET"
		if c.SPDYOnly {
			want = "POST"
		}
		got := s.requests() // a slow machine may have seen the need for a spare tunnel
		if got = slices.Compact(got); len(got) != 1 || got[0] != want {
			t.Errorf("requests %v", got)
		}
	})
}

// refuse answers requests of a method as those do that know no such upgrade.
func refuse(method string) map[string]func(http.ResponseWriter, *http.Request) bool {
	all := map[string]func(http.ResponseWriter, *http.Request){
		"status": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "what?", http.StatusForbidden) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
	}
	if method == http.MethodPost {
		all["other protocol"] = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "h2c")
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
		all["no answer"] = func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	} else {
		all["other protocol"] = func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
			acceptWebSocket(w, r).Close()
		}
		all["bad handshake"] = func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
			acceptWebSocket(w, r).Close()
		}
	}
	only := map[string]func(http.ResponseWriter, *http.Request) bool{}
	for name, answer := range all {
		only[name] = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == method {
				answer(w, r)
			}
			return r.Method == method
		}
	}
	return only
}

// Where SPDY does not get through the WebSocket is tried, or the other way around, and from
// then on only that, by all Clients of the same server.
func TestFallBack(t *testing.T) {
	t.Parallel()
	for _, first := range []string{http.MethodPost, http.MethodGet} {
		for name, answer := range refuse(first) {
			t.Run(first+" "+name, func(t *testing.T) {
				t.Parallel()
				s := start(t, echo)
				s.answer = answer
				var known Ways
				edit := func(c *Client) { c.KeepWebSocket, c.Ways = first == http.MethodGet, &known }
				c := s.client(t, edit)
				exchange(t, c)
				awaitBreak(t, s, c)
				exchange(t, c)
				exchange(t, s.client(t, edit))
				got := s.requests()
				if got[0] != first || slices.Contains(got[1:], first) {
					t.Errorf("requests %v", got)
				}
			})
		}
	}
}

// A server in trouble says nothing of the way, and one that is asked too much is not asked
// by another.
func TestTroubleIsNotTheWay(t *testing.T) {
	for code, want := range map[int]string{500: "POST GET POST", 503: "POST GET POST", 504: "POST GET POST", 429: "POST POST", 502: "POST GET GET"} {
		var troubled atomic.Bool
		s := start(t, echo)
		s.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if troubled.Load() && r.Method == http.MethodPost {
				w.WriteHeader(code)
				return true
			}
			return false
		}
		c := s.client(t)
		c.init()
		for _, trouble := range []bool{true, false} {
			troubled.Store(trouble)
			if u, _, err := c.upgrade(t.Context()); err == nil {
				u.Close()
			}
		}
		if got := strings.Join(s.requests(), " "); got != want {
			t.Errorf("%d: requests %s, want %s", code, got, want)
		}
	}
}

func TestStatusError(t *testing.T) {
	const forbidden = `{"kind":"Status","apiVersion":"v1","status":"Failure",` +
		`"message":"pods \"x\" is forbidden: User \"u\" cannot create resource \"pods/portforward\"","code":403}`
	tests := []struct {
		code       int
		body, want string
	}{
		{401, `{"kind":"Status","message":"Unauthorized","code":401}`, "Unauthorized"},
		{403, forbidden, `pods "x" is forbidden: User "u" cannot create resource "pods/portforward"`},
		{404, "404 page not found\n", "404 page not found"},
		{500, `{"kind":"Secret","message":"none"}`, `{"kind":"Secret","message":"none"}`},
		{502, "", ""},
		{503, strings.Repeat("é", 1<<20), strings.Repeat("é", tunnel.MaxText/2)},
	}
	ways(t, func(t *testing.T, way func(*Client)) {
		for _, test := range tests {
			t.Run(fmt.Sprint(test.code), func(t *testing.T) {
				s := start(t, echo)
				s.answer = func(w http.ResponseWriter, r *http.Request) bool {
					w.WriteHeader(test.code)
					fmt.Fprint(w, test.body)
					return true
				}
				c := s.client(t, way)
				err := c.Connect(t.Context())
				var status *StatusError
				if !errors.As(err, &status) || status.Code != test.code || status.Message != test.want {
					t.Errorf("%.300v", err)
				}
				if _, err := c.Dial(t.Context(), target.TCPPort(80)); !errors.As(err, &status) {
					t.Errorf("dial: %v", err)
				}
			})
		}
	})
}

// Where both ways were refused, each attempt is one request, of either kind in turn, and
// what works is found again.
func TestBothRefused(t *testing.T) {
	for _, back := range []string{http.MethodGet, http.MethodPost} {
		t.Run(back, func(t *testing.T) {
			s := start(t, echo)
			var works atomic.Bool
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if works.Load() && r.Method == back {
					return false
				}
				http.Error(w, "the node is down", http.StatusInternalServerError)
				return true
			}
			c := s.client(t)
			for range 4 {
				if err := c.Connect(t.Context()); err == nil {
					t.Fatal("it connects to a node that is down")
				}
			}
			if got := fmt.Sprint(s.requests()); got != "[POST GET POST GET POST]" {
				t.Errorf("requests %s", got)
			}
			works.Store(true)
			if c.Connect(t.Context()) != nil {
				_ = c.Connect(t.Context())
			}
			exchange(t, c)
		})
	}
}

// A server that asks to be left alone is not asked the other way either, and says for how long.
func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "Thu, 26 Nov 2020 04:00:00 GMT": 0,
		time.Now().Add(time.Hour).UTC().Format(http.TimeFormat): time.Hour,
	} {
		t.Run(header, func(t *testing.T) {
			s := start(t, echo)
			s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", header)
				http.Error(w, "not now", http.StatusTooManyRequests)
				return true
			}
			err := s.client(t).Connect(t.Context())
			var status *StatusError
			if !errors.As(err, &status) || status.RetryAfter > want || status.RetryAfter < want-time.Minute {
				t.Errorf("connect: %v, want %v", err, want)
			}
			if got := fmt.Sprint(s.requests()); got != "[POST]" {
				t.Errorf("requests %s", got)
			}
		})
	}
}

// What a server says about the next attempt is not forgotten when a young tunnel breaks after it.
func TestAgainAfterBreak(t *testing.T) {
	s := start(t, echo)
	var full atomic.Bool
	s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		if full.Load() {
			w.Header().Set("Retry-After", "7")
			http.Error(w, "try again later", http.StatusTooManyRequests)
		}
		return full.Load()
	}
	asked := make(chan error, 1)
	c := s.client(t, spdyOnly, func(c *Client) {
		c.Again = func(_ context.Context, _ int, err error) {
			full.Store(false)
			asked <- err
		}
	})
	exchange(t, c)
	full.Store(true)
	defer dial(t, c, 80).Close() // a spare tunnel is opened beside it, and refused
	within(t, time.Minute, "the refusal", func() bool {
		if c.ready() > 0 { // a slow machine has opened one before
			conn := dial(t, c, 80)
			t.Cleanup(func() { conn.Close() })
		}
		c.tunnels.mu.Lock()
		defer c.tunnels.mu.Unlock()
		return c.tunnels.failed != nil
	})
	s.cut()
	awaitBreak(t, s, c)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	var status *StatusError
	if err := <-asked; !errors.As(err, &status) || status.RetryAfter != 7*time.Second {
		t.Errorf("the next attempt is after %v, want the server's words", err)
	}
}

// However many wait, the opening after a failure is one, and waits for Again.
func TestAgain(t *testing.T) {
	s := start(t, echo)
	var works atomic.Bool
	s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		if !works.Load() {
			http.Error(w, "the node is down", http.StatusInternalServerError)
		}
		return !works.Load()
	}
	let, asked := make(chan struct{}), make(chan int)
	c := s.client(t, spdyOnly, func(c *Client) {
		c.Again = func(ctx context.Context, failures int, err error) {
			select {
			case asked <- failures:
				<-let
			case <-ctx.Done():
			}
		}
	})
	var status *StatusError
	if err := c.Connect(t.Context()); !errors.As(err, &status) {
		t.Fatalf("connect: %v", err)
	}
	var waiting sync.WaitGroup
	for range 50 {
		waiting.Go(func() {
			if err := c.Connect(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	if failures := <-asked; failures != 1 {
		t.Errorf("%d failures, want 1", failures)
	}
	// Who cannot wait is told what it was.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.Connect(ctx); !errors.As(err, &status) {
		t.Errorf("connect: %v, want the failure", err)
	}
	if n := len(s.requests()); n != 1 {
		t.Errorf("%d requests before it is time", n)
	}
	works.Store(true)
	close(let)
	waiting.Wait()
	if n := len(s.requests()); n < 2 || n > 5 { // a slow machine may have seen the need for spares
		t.Errorf("%d requests, want 2", n)
	}

	// A tunnel that breaks while it is new was no success.
	for again := false; !again; {
		s.cut()
		go func() { _ = c.Connect(context.Background()) }()
		select {
		case <-asked:
			again = true
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// What is no answer of the server is not tried again the other way.
func TestNoServer(t *testing.T) {
	s := start(t, echo)
	c := s.client(t)
	s.http.Close()
	var status *StatusError
	if err := c.Connect(t.Context()); err == nil || errors.As(err, &status) {
		t.Errorf("connect: %v", err)
	}
	if n := len(s.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// An answer that is SPDY but not this protocol is no tunnel.
func TestOtherStreamProtocol(t *testing.T) {
	s := start(t, echo)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		conn, buffered, _ := w.(http.Hijacker).Hijack()
		buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
		buffered.Flush()
		conn.Close()
		return true
	}
	if err := s.client(t, spdyOnly).Connect(t.Context()); !errors.Is(err, errUpgrade) {
		t.Errorf("connect: %v", err)
	}
}

// What goes out at once leaves the Transport's connection at once, although TLS makes many records of it.
func TestTunnelOverTLSIsGathered(t *testing.T) {
	const size, record = 4 << 20, 16 << 10
	arrived := make(chan int64, 1)
	s := start(t, func(r *request) {
		n, _ := io.Copy(io.Discard, io.LimitReader(r.data, size))
		arrived <- n
		r.finish()
	})
	front := httptest.NewTLSServer(s)
	t.Cleanup(front.Close)
	var writes atomic.Int64
	transport := front.Client().Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return &nonblock.Gatherer{Conn: countedConn{conn, &writes}}, err
	}
	c := s.client(t, func(c *Client) { c.Transport, c.SPDYOnly = transport, true })
	c.URL.Scheme, c.URL.Host = "https", front.Listener.Addr().String()
	conn := dial(t, c, 80)
	defer conn.Close()
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if n := <-arrived; n != size {
		t.Errorf("%d bytes arrived, want %d", n, size)
	}
	if n := writes.Load(); n > size/record/2 {
		t.Errorf("%d writes of %d bytes", n, size)
	}
}
