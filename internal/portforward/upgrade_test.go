package portforward

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
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
