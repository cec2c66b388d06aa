package portforward

import (
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// stockTunnel is the client's end of a tunnel in the stock protocol, without a
// Client's pool around it.
func stockTunnel(t *testing.T, n *node) *spdy.Conn {
	t.Helper()
	c := n.client(t, func(c *Client) { c.Transport = stockOnly{c.Transport} })
	u, err := c.upgradeSPDY(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := spdy.New(u, spdy.Config{})
	t.Cleanup(func() { conn.Close() })
	return conn
}

func openStream(t *testing.T, c *spdy.Conn, kind string, port uint16, id string) *spdy.Stream {
	t.Helper()
	h := spdy.Header{"streamType": {kind}, "port": {strconv.Itoa(int(port))}, "requestID": {id}}
	if id == "" {
		delete(h, "requestID")
	}
	s, err := c.OpenStream(h, kind == "error")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantReset(t *testing.T, s *spdy.Stream) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(testenv.Patience))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("stream %d: %v", s.ID(), err)
	}
}

// Streams find each other in whatever order they come, and without a name.
func TestPairs(t *testing.T) {
	port := testenv.ServeTCP(t, testenv.Echo)
	c := stockTunnel(t, newNode(t))
	second := openStream(t, c, "data", port, "b")
	text := openStream(t, c, "error", port, "a")
	nameless := openStream(t, c, "error", port, "")
	third := openStream(t, c, "data", port, "")
	secondText := openStream(t, c, "error", port, "b")
	first := openStream(t, c, "data", port, "a")
	for i, s := range []*spdy.Stream{first, second, third} {
		mustWrite(t, s, "hello")
		s.CloseWrite()
		if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
			t.Errorf("connection %d: %q, %v", i, got, err)
		}
	}
	for _, s := range []*spdy.Stream{text, nameless, secondText} {
		if got, err := io.ReadAll(s); err != nil || len(got) != 0 {
			t.Errorf("error stream %d: %q, %v", s.ID(), got, err)
		}
	}
}

// A stream that makes no sense is reset, and no other is touched.
func TestBadStreams(t *testing.T) {
	port := testenv.ServeTCP(t, testenv.Echo)
	c := stockTunnel(t, newNode(t))
	for _, h := range []spdy.Header{
		{},
		{"streamType": {"data"}, "requestID": {"1"}},
		{"streamType": {"data"}, "port": {"0"}, "requestID": {"1"}},
		{"streamType": {"data"}, "port": {"65536"}, "requestID": {"1"}},
		{"streamType": {"data"}, "port": {"-1"}, "requestID": {"1"}},
		{"streamType": {"data"}, "port": {"http"}, "requestID": {"1"}},
		{"streamType": {"stdin"}, "port": {"80"}, "requestID": {"1"}},
		{"port": {"80"}, "requestID": {"1"}},
		{"streamType": {"data"}, "port": {"80"}, "requestID": {strings.Repeat("x", 10_000)}},
	} {
		s, err := c.OpenStream(h, false)
		if err != nil {
			t.Fatal(err)
		}
		wantReset(t, s)
	}
	text := openStream(t, c, "error", port, "a")
	wantReset(t, openStream(t, c, "error", port, "a"))
	data := openStream(t, c, "data", port, "a")
	mustWrite(t, data, "alive")
	mustRead(t, data, "alive")
	data.CloseWrite()
	if got, err := io.ReadAll(text); err != nil || len(got) != 0 {
		t.Errorf("error stream: %q, %v", got, err)
	}
}

// Only so many may wait for their other half.
func TestUnpairedStreams(t *testing.T) {
	port := testenv.ServeTCP(t, testenv.Echo)
	c := stockTunnel(t, newNode(t))
	for i := range maxUnpaired {
		openStream(t, c, "data", port, strconv.Itoa(i))
	}
	wantReset(t, openStream(t, c, "data", port, "over"))
	text := openStream(t, c, "error", port, "0") // completes one
	defer text.Close()
	wait := openStream(t, c, "data", port, "another")
	wait.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := wait.Read(make([]byte, 1)); errors.Is(err, tunnel.ErrReset) {
		t.Error("there was room for one more")
	}
}

// A thousand connections at once, as a stock client opens them: their streams in
// whatever order.
func TestThousandConnections(t *testing.T) {
	port := testenv.ServeTCP(t, testenv.Echo)
	const conns = 1000
	var errorsFirst, dataFirst, mixed []string
	for i := range conns {
		id := strconv.Itoa(i)
		errorsFirst = append(errorsFirst, "error "+id)
		dataFirst = append(dataFirst, "data "+id)
		mixed = append(mixed, "error "+id, "data "+strconv.Itoa(conns-1-i))
	}
	for name, order := range map[string][]string{
		"all error streams first": append(slices.Clone(errorsFirst), dataFirst...),
		"all data streams first":  append(slices.Clone(dataFirst), errorsFirst...),
		"interleaved":             mixed,
	} {
		t.Run(name, func(t *testing.T) {
			c := stockTunnel(t, newNode(t))
			question := strings.Repeat("q", 10_000)
			var work sync.WaitGroup
			for _, next := range order {
				kind, id, _ := strings.Cut(next, " ")
				s := openStream(t, c, kind, port, id)
				work.Go(func() {
					s.SetDeadline(time.Now().Add(time.Minute))
					want := ""
					if kind == "data" {
						want = question
						io.WriteString(s, question)
						s.CloseWrite()
					}
					if got, err := io.ReadAll(s); err != nil || string(got) != want {
						t.Errorf("%s: %d bytes, %v", next, len(got), err)
					}
				})
			}
			work.Wait()
		})
	}
}

// What belongs to a stream that was refused is reset at once, and its bytes are
// dropped: they hold nobody up.
func TestRefusedHalf(t *testing.T) {
	for _, first := range []string{"error", "data"} {
		t.Run(first+" refused", func(t *testing.T) {
			port := testenv.ServeTCP(t, testenv.Echo)
			c := stockTunnel(t, newNode(t))
			beside := openPair(t, c, port, "beside")
			for i := range maxUnpaired {
				openStream(t, c, "error", port, strconv.Itoa(i))
			}
			wantReset(t, openStream(t, c, first, port, "over"))
			openStream(t, c, "data", port, "0").CloseWrite() // there is room again
			second := openStream(t, c, map[string]string{"error": "data", "data": "error"}[first], port, "over")
			if first == "error" {
				second.SetWriteDeadline(time.Now().Add(time.Minute))
				var err error
				for piece := make([]byte, 1<<20); err == nil; { // until the reset arrives
					_, err = second.Write(piece)
				}
				if !errors.Is(err, tunnel.ErrReset) {
					t.Errorf("writing: %v", err)
				}
			}
			wantReset(t, second)
			beside.SetDeadline(time.Now().Add(testenv.Patience))
			mustWrite(t, beside, "alive")
			mustRead(t, beside, "alive")
		})
	}
}

// Nor does one that is still waited for hold up the tunnel, in which the other is to
// come.
func TestUnpairedIsFull(t *testing.T) {
	port := testenv.ServeTCP(t, testenv.Echo)
	c := stockTunnel(t, newNode(t))
	beside := openPair(t, c, port, "beside")
	alone := openStream(t, c, "data", port, "alone")
	alone.SetWriteDeadline(time.Now().Add(testenv.Patience))
	var err error
	for piece := make([]byte, 1<<20); err == nil; { // what is under way when the reset is sent is written without an error
		_, err = alone.Write(piece)
	}
	if !errors.Is(err, tunnel.ErrReset) {
		t.Errorf("writing: %v", err)
	}
	wantReset(t, openStream(t, c, "error", port, "alone"))
	beside.SetDeadline(time.Now().Add(testenv.Patience))
	mustWrite(t, beside, "alive")
	mustRead(t, beside, "alive")
}

// A stream that its client resets leaves its place to another.
func TestUnpairedIsReset(t *testing.T) {
	port := testenv.ServeTCP(t, testenv.Echo)
	c := stockTunnel(t, newNode(t))
	for i := range 3 * maxUnpaired {
		openStream(t, c, "data", port, strconv.Itoa(i)).Reset()
	}
	within(t, 10*time.Second, "room", func() bool {
		id := rand.Text()
		s, text := openStream(t, c, "data", port, id), openStream(t, c, "error", port, id)
		defer text.Reset()
		defer s.Reset()
		s.SetDeadline(time.Now().Add(testenv.Patience))
		io.WriteString(s, "x")
		_, err := io.ReadFull(s, make([]byte, 1))
		return err == nil
	})
}

// openPair is a connection whose both streams are open.
func openPair(t *testing.T, c *spdy.Conn, port uint16, id string) *spdy.Stream {
	t.Helper()
	openStream(t, c, "error", port, id)
	data := openStream(t, c, "data", port, id)
	mustWrite(t, data, "hello")
	mustRead(t, data, "hello")
	return data
}

// One whose other half does not come is given up.
func TestPairExpires(t *testing.T) {
	client, server := spdyTunnel(t)
	var p pairs
	defer p.close()
	for _, kind := range []string{"data", "error"} {
		s := openStream(t, client, kind, 80, kind)
		accepted, err := server.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.add(kind, accepted)
		p.mu.Lock()
		w := p.waiting[kind]
		p.mu.Unlock()
		p.giveUp(kind, w)
		got, err := io.ReadAll(s)
		if kind == "data" && !errors.Is(err, tunnel.ErrReset) || kind == "error" && string(got) != "timed out waiting for streams" {
			t.Errorf("%s: %q, %v", kind, got, err)
		}
	}
	if len(p.waiting) != 0 {
		t.Errorf("%d wait", len(p.waiting))
	}
}

// spdyTunnel is the two ends of a tunnel, with nothing behind the server's.
func spdyTunnel(t *testing.T) (client, server *spdy.Conn) {
	t.Helper()
	a, b := testenv.TCPPair(t)
	client, server = spdy.New(a, spdy.Config{}), spdy.New(b, spdy.Config{Server: true})
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// What is no SPDY ends the tunnel, and everything of it goes.
func TestBrokenFrames(t *testing.T) {
	n := newNode(t)
	_, _, r := n.ask(t, "POST /pod HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n\x80\x09\x00\x01\x00\x00\x00\x00")
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(rest), "\x80\x03\x00\x07") { // GOAWAY
		t.Errorf("answered %x, %v", rest, err)
	}
	within(t, 10*time.Second, "offer done", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.done == 1
	})
}
