package portforward

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
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
		if got := s.requests(); len(got) != 1 || got[0] != want {
			t.Errorf("requests %v", got)
		}
	})
}

// refuse answers GET requests as a server does that knows no such WebSocket.
var refuse = map[string]func(http.ResponseWriter, *http.Request) bool{
	"status": func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			http.Error(w, "what?", http.StatusForbidden)
		}
		return r.Method == http.MethodGet
	},
	"redirect": func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}
		return r.Method == http.MethodGet
	},
	"other protocol": func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			r.Header.Set("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
			acceptWebSocket(w, r).Close()
		}
		return r.Method == http.MethodGet
	},
	"bad handshake": func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
			acceptWebSocket(w, r).Close()
		}
		return r.Method == http.MethodGet
	},
}

// Where the WebSocket is refused SPDY is tried, and from then on only that.
func TestFallBack(t *testing.T) {
	for name, answer := range refuse {
		t.Run(name, func(t *testing.T) {
			s := start(t, echo)
			s.answer = answer
			c := s.client(t)
			exchange(t, c)
			awaitBreak(t, s, c)
			exchange(t, c)
			got := s.requests()
			if got[0] != "GET" || slices.Contains(got[1:], "GET") {
				t.Errorf("requests %v", got)
			}
		})
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
		{503, strings.Repeat("é", 1<<20), strings.Repeat("é", maxMessage/2)},
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
				if _, err := c.Dial(t.Context(), 80); !errors.As(err, &status) {
					t.Errorf("dial: %v", err)
				}
			})
		}
	})
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
