package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/testenv"
)

// slowRequests are the ways to hold a connection of a web server for long.
var slowRequests = []struct {
	name  string
	begin string
	drip  string // goes on coming, a piece now and then
	reads bool   // what is answered is read
}{
	{"nothing", "", "", true},
	{"part of a header", "GET / HTTP/1.1\r\nHost: x\r\n", "", true},
	{"slow header", "GET / HTTP/1.1\r\nHost: x\r\n", "X-Y: z\r\n", true},
	{"no body", "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "", true},
	{"slow body", "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "x", true},
	{"slow chunks", "POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", true},
	{"idle after an answer", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "", true},
	{"no body for an upgrade", "POST /portforward/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 10\r\n\r\n", "", true},
	{"slow reader", "", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", false},
}

// Nobody keeps a place for long, and whoever comes while all are taken is answered.
func TestSlowRequests(t *testing.T) {
	testenv.NoLeaks(t)
	for _, slow := range slowRequests {
		t.Run(slow.name, func(t *testing.T) {
			t.Parallel()
			w := startWeb(t)
			var ended sync.WaitGroup
			count := maxPending + 50
			if !slow.reads {
				count = 1 // whose answers fill the sockets
			}
			for range count {
				c, err := net.Dial("tcp", w.listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if slow.reads {
					ended.Go(func() { dripUntilEnd(c, slow.begin, slow.drip) })
				} else {
					ended.Go(func() { askUntilEnd(c, slow.drip) })
				}
			}
			wantAnswer(t, w)
			awaitAll(t, &ended)
			wantAnswer(t, w)
		})
	}
}

// startWeb starts what both of the node's web servers are, a little more impatient.
// What it serves is for both.
func startWeb(t *testing.T) *web {
	t.Helper()
	var forwards portforward.Server
	mux := http.NewServeMux()
	mux.Handle("/portforward/", &forwards)
	mux.Handle("/", newForwardMetrics(forwards.Load).handler(prometheus.NewRegistry()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newWeb(l, mux, quiet)
	w.limitTime(2 * time.Second)
	c := newComponents(context.Background())
	c.owns(&forwards)
	w.start(c, "web")
	t.Cleanup(c.close)
	return w
}

// dripUntilEnd sends begin, and drip now and then, until the server hangs up.
func dripUntilEnd(c net.Conn, begin, drip string) {
	_, _ = io.WriteString(c, begin)
	for {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		_, _ = io.WriteString(c, drip)
	}
}

// askUntilEnd asks again and again, and reads no answer, until the server hangs up.
func askUntilEnd(c net.Conn, request string) {
	for {
		if _, err := io.WriteString(c, request); err != nil {
			return
		}
	}
}

// wantAnswer has a request answered, by a connection of its own. On a busy machine one may
// take longer than the server's patience is here.
func wantAnswer(t *testing.T, w *web) {
	t.Helper()
	var err error
	for end := time.Now().Add(waitTime); time.Now().Before(end); {
		if err = ask(w); err == nil {
			return
		}
	}
	t.Fatal("no answer beside slow requests:", err)
}

func ask(w *web) error {
	c, err := net.Dial("tcp", w.listener.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTime))
	_, _ = fmt.Fprint(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return errors.Join(err, response.Body.Close())
}

// awaitAll waits for what the server has to end.
func awaitAll(t *testing.T, work *sync.WaitGroup) {
	t.Helper()
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a slow connection is still open")
	}
}
