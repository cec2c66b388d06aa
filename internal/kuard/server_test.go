package kuard

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// site is a Server on a real loopback port, and a browser's worth of a client.
type site struct {
	t      *testing.T
	addr   string
	client *http.Client
}

// serve runs s until the test ends, and holds that Serve then ends well and soon.
func serve(t *testing.T, s *Server) *site {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	client := &http.Client{
		Transport:     &http.Transport{},
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve returned %v after its context ended", err)
			}
		case <-time.After(time.Minute):
			t.Error("Serve still runs 3 s after its context ended")
		}
		client.CloseIdleConnections()
	})
	return &site{t, ln.Addr().String(), client}
}

// reply is a response, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request; headers are names and values in turn.
func (s *site) do(method, path, body string, headers ...string) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(got)}
}

// want sends a request and holds the reply to its status.
func (s *site) want(status int, method, path, body string, headers ...string) reply {
	s.t.Helper()
	r := s.do(method, path, body, headers...)
	if r.status != status {
		s.t.Fatalf("%s %s: status %d, want %d: %.500s", method, path, r.status, status, r.body)
	}
	return r
}

// parse reads the reply's JSON into a T.
func parse[T any](t *testing.T, r reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return v
}

func TestWrongMethods(t *testing.T) {
	s := serve(t, &Server{})
	for _, c := range []struct{ method, path string }{
		{"POST", "/"}, {"POST", "/env/api"}, {"PUT", "/mem/api"}, {"GET", "/mem/api/alloc"}, {"GET", "/mem/api/clear"},
		{"POST", "/healthy"}, {"DELETE", "/ready/api"}, {"GET", "/dns/api"}, {"PUT", "/dns/api"},
		{"PUT", "/fs/etc/passwd"}, {"DELETE", "/fs/etc/passwd"}, {"POST", "/fs/"}, {"DELETE", "/keygen"}, {"POST", "/metrics"},
	} {
		if r := s.want(http.StatusMethodNotAllowed, c.method, c.path, ""); r.header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow header", c.method, c.path)
		}
	}
}

func TestBadBodies(t *testing.T) {
	s := serve(t, &Server{})
	for _, path := range []string{"/dns/api", "/healthy/api", "/ready/api", "/keygen"} {
		for name, body := range map[string]string{
			"empty": "", "not JSON": "failNext=1", "unknown field": `{"nonsense":1}`, "wrong type": `[]`, "two values": `{} {}`, "half": `{"type":`,
		} {
			r := s.want(http.StatusBadRequest, "POST", path, body)
			if parse[map[string]string](t, r)["error"] == "" {
				t.Errorf("POST %s, %s: no error in %s", path, name, r.body)
			}
		}
		s.want(http.StatusRequestEntityTooLarge, "POST", path, `{"name":"`+strings.Repeat("a", maxBody)+`"}`)
	}
}

func TestOtherSitesCannotChangeAnything(t *testing.T) {
	s := serve(t, &Server{})
	for _, c := range []struct{ path, body string }{
		{"/healthy/api", `{"failNext":-1}`}, {"/ready/api", `{"failNext":-1}`}, {"/mem/api/alloc?size=4096", ""}, {"/mem/api/clear", ""},
		{"/keygen", `{"enabled":true}`}, {"/dns/api", `{"type":"A","name":"a."}`},
	} {
		s.want(http.StatusForbidden, "POST", c.path, c.body, "Sec-Fetch-Site", "cross-site")
		r := s.want(http.StatusForbidden, "POST", c.path, c.body, "Origin", "https://elsewhere.example")
		if parse[map[string]string](t, r)["error"] == "" {
			t.Errorf("POST %s: no error in %s", c.path, r.body)
		}
	}
	s.want(http.StatusOK, "GET", "/healthy", "")
	s.want(http.StatusOK, "POST", "/healthy/api", `{"failNext":1}`, "Sec-Fetch-Site", "same-origin")
	s.want(http.StatusOK, "POST", "/healthy/api", `{"failNext":0}`, "Origin", "http://"+s.addr)
}

func TestEveryReplyIsHardened(t *testing.T) {
	s := serve(t, &Server{})
	for _, path := range []string{"/", "/static/app.js", "/env/api", "/healthy", "/fs/", "/fs/etc/hosts", "/metrics", "/nosuch"} {
		h := s.do("GET", path, "").header
		if h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %s: no nosniff", path)
		}
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src ") || strings.Contains(csp, "unsafe-eval") {
			t.Errorf("GET %s: Content-Security-Policy is %q", path, csp)
		}
	}
}

// A request that waits, here for a name server that never replies, must not keep the server from ending.
func TestServeEndsWithRequestsInFlight(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := serve(t, resolving(t, silent.LocalAddr(), "options timeout:30 attempts:5"))
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"type":"A","name":"waits."}`
	if _, err := io.WriteString(conn, "POST /dns/api HTTP/1.1\r\nHost: pod\r\nContent-Length: 28\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil { // The query is under way.
		t.Fatal(err)
	}
	idle, err := net.Dial("tcp", s.addr) // A connection that never asks for anything.
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	// serve's clean-up holds that Serve ends, and TestMain that nothing stays behind.
}

func TestServeReportsABrokenListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := (&Server{}).Serve(t.Context(), ln); err == nil {
		t.Error("Serve on a closed listener returned nil")
	}
}

// A Server serves again after it was closed, with what it was set to.
func TestServeTwice(t *testing.T) {
	s := &Server{}
	t.Run("first", func(t *testing.T) { serve(t, s).want(http.StatusOK, "POST", "/ready/api", `{"failNext":-1}`) })
	t.Run("second", func(t *testing.T) { serve(t, s).want(http.StatusInternalServerError, "GET", "/ready", "") })
}
