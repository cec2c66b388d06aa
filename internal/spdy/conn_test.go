package spdy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// recorder is a transport that keeps each Write, and reads nothing until closed.
type recorder struct {
	mu     sync.Mutex
	writes [][]byte
	closed chan struct{}
	once   sync.Once
}

func newRecorder() *recorder { return &recorder{closed: make(chan struct{})} }

func (r *recorder) Read([]byte) (int, error) {
	<-r.closed
	return 0, io.EOF
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func (r *recorder) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

func (r *recorder) taken() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

// The two streams of a port-forwarded connection, the first data and an early
// end need one write.
func TestCork(t *testing.T) {
	r := newRecorder()
	c := New(r, Config{})
	defer c.Close()
	c.Cork()
	c.OpenStream(Header{"Streamtype": {"error"}}, true)
	s, _ := c.OpenStream(Header{"Streamtype": {"data"}}, false)
	mustWrite(t, s, "GET / ")
	mustWrite(t, s, "HTTP/1.0\r\n\r\n")
	s.CloseWrite()
	time.Sleep(20 * time.Millisecond)
	if n := len(r.taken()); n != 0 {
		t.Fatalf("%d writes while corked", n)
	}
	c.Uncork()
	within(t, time.Second, "a write", func() bool { return len(r.taken()) > 0 })
	if n := len(r.taken()); n != 1 {
		t.Errorf("%d writes", n)
	}
	tail := append(unhex(t, "00000003 01000012"), "GET / HTTP/1.0\r\n\r\n"...)
	if got := r.taken()[0]; !bytes.HasSuffix(got, tail) {
		t.Errorf("wrote %x, want the end %x", got, tail)
	}
}

// A full batch must leave although the tunnel is corked, or Write would hang.
func TestCorkOverflows(t *testing.T) {
	r := newRecorder()
	c := New(r, Config{})
	defer c.Close()
	c.Cork()
	s, _ := c.OpenStream(nil, false)
	if _, err := s.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	c.Uncork()
}

// A data frame is one write, header and payload together; many share one.
func TestWritesPerFrame(t *testing.T) {
	r := newRecorder()
	c := New(r, Config{})
	defer c.Close()
	s, _ := c.OpenStream(nil, false)
	for i := range 64 {
		mustWrite(t, s, "z")
		within(t, time.Second, "a write", func() bool {
			var n int
			for _, w := range r.taken() {
				n += bytes.Count(w, []byte("z"))
			}
			return n == i+1
		})
	}
	if n := len(r.taken()); n > 65 {
		t.Errorf("%d writes for 1 opening and 64 frames", n)
	}
}

// Streams that all have much to send take turns, chunk by chunk.
func TestFairness(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true})
	var seen [4]int
	var mu sync.Mutex
	var readers sync.WaitGroup
	begin := make(chan struct{})
	for i := range seen {
		a, b := pair(t, client, server)
		go func() { <-begin; a.Write(make([]byte, 16<<20)); a.CloseWrite() }()
		readers.Go(func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := b.Read(buf)
				mu.Lock()
				seen[i] += n
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	close(begin)
	within(t, 20*time.Second, "one stream done", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range seen {
			if n == 16<<20 {
				return true
			}
		}
		return false
	})
	mu.Lock()
	for i, n := range seen {
		if n < 4<<20 {
			t.Errorf("stream %d has %d bytes when another has all", i, n)
		}
	}
	mu.Unlock()
	readers.Wait()
}

func TestRefusesAboveLimit(t *testing.T) {
	a, b := transports(t)
	client, server := New(a, Config{}), New(b, Config{Server: true, MaxStreams: 2})
	defer client.Close()
	defer server.Close()
	pair(t, client, server)
	first, _ := pair(t, client, server)
	over, err := client.OpenStream(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := over.Read(make([]byte, 1)); !errors.Is(err, ErrRefused) || !errors.Is(err, ErrReset) {
		t.Errorf("read of a refused stream: %v", err)
	}
	first.Reset()
	within(t, time.Second, "room again", func() bool { return server.Streams() == 1 })
	s, echo := pair(t, client, server)
	mustWrite(t, s, "alive")
	mustRead(t, echo, "alive")
}

func TestOwnLimit(t *testing.T) {
	c := New(newRecorder(), Config{MaxStreams: 1})
	defer c.Close()
	if _, err := c.OpenStream(nil, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.OpenStream(nil, false); !errors.Is(err, ErrTooManyStreams) {
		t.Errorf("second stream: %v", err)
	}
}

// Either end may open streams.
func TestServerOpens(t *testing.T) {
	client, server := tunnel(t, Config{})
	a, b := pair(t, server, client)
	if a.ID() != 2 || b.Headers().Get("streamType") != "data" {
		t.Errorf("stream %d with %v", a.ID(), b.Headers())
	}
	mustWrite(t, a, "down")
	mustRead(t, b, "down")
}

func TestAcceptEnds(t *testing.T) {
	client, server := tunnel(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := server.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	go client.Close()
	if _, err := server.Accept(t.Context()); !errors.Is(err, ErrTunnel) {
		t.Errorf("tunnel gone: %v", err)
	}
}

// After Close nothing is left and everything that waits has failed; what was
// written before still arrives.
func TestClose(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		last, complete := pair(t, client, server)
		// Whatever is still on its way to a socket that is closed resets it.
		mustWrite(t, complete, "first")
		mustRead(t, last, "first")
		failed := make(chan error, 2)
		go func() { _, err := a.Read(make([]byte, 1)); failed <- err }()
		go func() { _, err := b.Read(make([]byte, 1)); failed <- err }()
		mustWrite(t, last, "last")
		last.CloseWrite()
		client.Close()
		for range 2 {
			if err := <-failed; !errors.Is(err, ErrTunnel) {
				t.Errorf("read: %v", err)
			}
		}
		if got, err := io.ReadAll(complete); err != nil || string(got) != "last" {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := client.OpenStream(nil, false); !errors.Is(err, ErrTunnel) {
			t.Errorf("open: %v", err)
		}
		<-server.Done()
		client.Close()
	})
}

// Close must not wait for a peer that reads nothing.
func TestCloseStuck(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	c := New(a, Config{})
	s, _ := c.OpenStream(nil, false)
	go s.Write(make([]byte, 1<<20))
	within(t, time.Second, "stuck", func() bool { return c.Stalled() > 0 })
	begun := time.Now()
	c.Close()
	if d := time.Since(begun); d > testenv.Patience {
		t.Errorf("took %v", d)
	}
}

func TestPingTimeout(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go io.Copy(io.Discard, b)
	c := New(a, Config{PingInterval: 10 * time.Millisecond, PingTimeout: 50 * time.Millisecond})
	defer c.Close()
	select {
	case <-c.Done():
	case <-time.After(time.Minute):
		t.Fatal("a dead peer is not noticed")
	}
	if err := c.Err(); !errors.Is(err, ErrPingTimeout) || !errors.Is(err, ErrTunnel) {
		t.Error(err)
	}
}

// blockedWriter takes nothing until it is released.
type blockedWriter struct{ released chan struct{} }

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w.released
	return len(p), nil
}

// While the transport takes nothing, as much data waits as Config.Batch says.
func TestBatch(t *testing.T) {
	a, _ := transports(t)
	blocked := blockedWriter{make(chan struct{})}
	c := New(struct {
		io.Reader
		io.Writer
		io.Closer
	}{a, blocked, a}, Config{Batch: LargeBatch})
	defer c.Close()
	defer close(blocked.released)
	s, err := c.OpenStream(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = s.Write(make([]byte, 2*LargeBatch)) }()
	within(t, testenv.Patience, "a full batch", func() bool {
		c.send.mu.Lock()
		defer c.send.mu.Unlock()
		return len(c.send.out) >= LargeBatch
	})
}

// Pings go on while the time for an answer runs: who waits for a sign of life waits for the next one.
func TestPingsWhileUnanswered(t *testing.T) {
	_, peer := rawPeer(t, Config{PingInterval: 5 * time.Millisecond, PingTimeout: time.Hour})
	_ = peer.SetReadDeadline(time.Now().Add(testenv.Patience))
	got := make([]byte, 3*12)
	want := "80030006 00000004 00000001 80030006 00000004 00000003 80030006 00000004 00000005"
	if n, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("sent %x, %v", got[:n], err)
	}
}

func TestPingAnswered(t *testing.T) {
	client, server := tunnel(t, Config{PingInterval: 5 * time.Millisecond, PingTimeout: 2 * time.Second})
	time.Sleep(3 * time.Second)
	if client.Err() != nil || server.Err() != nil {
		t.Error(client.Err(), server.Err())
	}
	if client.progress.Load() == 0 {
		t.Error("no answers")
	}
}

// rawPeer is a tunnel whose other end is written byte by byte.
func rawPeer(t *testing.T, cfg Config) (*Conn, net.Conn) {
	t.Helper()
	a, b := transports(t)
	c := New(a, cfg)
	t.Cleanup(func() { c.Close() })
	return c, b
}

// What the protocol forbids ends the tunnel, and the peer is told.
func TestProtocolErrors(t *testing.T) {
	block := "7820e3c6a7c2 00 0400 fbff 00000000 000000ffff"
	for name, wire := range map[string]string{
		"wrong version":        "80020006 00000004 00000001",
		"control too long":     "80030001 00ffffff",
		"data on stream 0":     "00000000 00000000",
		"own parity":           "80030001 0000001e 00000002 00000000 0000" + block,
		"id twice":             "80030001 0000001e 00000001 00000000 0000" + block + "80030001 00000018 00000001 00000000 0000 00 0400 fbff 00000000 000000ffff",
		"bad header block":     "80030001 0000000e 00000001 00000000 0000 deadbeef",
		"unknown but too long": "8003ffff 00ffffff",
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := rawPeer(t, Config{Server: true})
			peer.Write(unhex(t, wire))
			<-c.Done()
			if !errors.Is(c.Err(), ErrProtocol) {
				t.Error(c.Err())
			}
			got, _ := io.ReadAll(peer)
			if !bytes.Contains(got, unhex(t, "80030007 00000008")) {
				t.Errorf("no GOAWAY in %x", got)
			}
		})
	}
}

// Frames that mean nothing here pass, and pings are sent back.
func TestIgnoresAndAnswers(t *testing.T) {
	c, peer := rawPeer(t, Config{Server: true})
	peer.Write(unhex(t, ""+
		"8003000a 00000004 00000000"+ // CREDENTIAL
		"8003ffff 00000002 0000"+ // no such kind
		"80030004 0000000c 00000001 00000004 00000064"+ // SETTINGS
		"80030009 00000008 00000000 00000001"+ // WINDOW_UPDATE
		"80030006 00000004 00000002"+ // answer to a ping never sent
		"00000009 00000001 ff"+ // data for a stream that never was
		"80030003 00000008 00000009 00000005"+ // reset of the same
		"80030006 00000004 00000001")) // PING
	want := unhex(t, "80030003 00000008 00000009 00000002"+"80030006 00000004 00000001")
	got := make([]byte, len(want))
	if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("answered %x, %v; want %x", got, err, want)
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
}

// A peer that never reads its answers cannot make this end hold ever more.
func TestPingFlood(t *testing.T) {
	c, peer := rawPeer(t, Config{Server: true})
	flood := bytes.Repeat(unhex(t, "80030006 00000004 00000001"), 1<<16)
	for c.Err() == nil {
		peer.SetWriteDeadline(time.Now().Add(testenv.Patience))
		if _, err := peer.Write(flood); err != nil {
			break
		}
	}
	if !errors.Is(c.Err(), ErrCongested) {
		t.Errorf("tunnel: %v", c.Err())
	}
}

// Answers that a peer does not read are paid for, and one that goes on asking ends its
// tunnel when there is no more to pay with. Over a net.Pipe a write has been read when it
// returns, so the charge is seen while it grows.
func TestUnreadAnswersAreCharged(t *testing.T) {
	const size = 1 << 20
	budget := &Budget{Size: size, MaxShares: 8}
	pings := bytes.Repeat(unhex(t, "80030006 00000004 00000001"), 1<<10)
	var tunnels []*Conn
	held := 0
	for range 8 {
		near, peer := net.Pipe()
		t.Cleanup(func() { peer.Close() })
		c := New(near, Config{Server: true, FlowControl: true, Share: budget.NewShare()})
		tunnels = append(tunnels, c)
		for {
			if _, err := peer.Write(pings); err != nil {
				break
			}
			held = max(held, budget.Held())
		}
		<-c.Done()
		if !errors.Is(c.Err(), ErrCongested) {
			t.Errorf("tunnel: %v", c.Err())
		}
	}
	if held < answerStep || held > size {
		t.Errorf("%d bytes were charged", held)
	}
	for _, c := range tunnels {
		c.Close()
	}
	if left := budget.Held(); left != 0 {
		t.Errorf("%d bytes are charged in the end", left)
	}
}

// After GOAWAY open streams go on, new ones do not start, and those that the
// peer has not seen are refused.
func TestGoAway(t *testing.T) {
	c, peer := rawPeer(t, Config{})
	seen, _ := c.OpenStream(nil, false)
	unseen, _ := c.OpenStream(nil, false)
	peer.Write(unhex(t, "80030007 00000008 00000001 00000000"))
	if _, err := unseen.Read(make([]byte, 1)); !errors.Is(err, ErrRefused) {
		t.Errorf("unseen stream: %v", err)
	}
	if _, err := c.OpenStream(nil, false); !errors.Is(err, ErrGoAway) {
		t.Errorf("new stream: %v", err)
	}
	peer.Write(unhex(t, "00000001 01000002 6f6b"))
	if got, err := io.ReadAll(seen); err != nil || string(got) != "ok" {
		t.Errorf("seen stream: %q, %v", got, err)
	}
}

// A peer that overruns its window loses the stream, not the tunnel.
func TestWindowOverrun(t *testing.T) {
	c, peer := rawPeer(t, Config{FlowControl: true, ReceiveBuffer: 64 << 10})
	s, _ := c.OpenStream(nil, false)
	go io.Copy(io.Discard, peer)
	peer.Write(append(unhex(t, "00000001 00010001"), make([]byte, 64<<10+1)...))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
}

// Windows that grow beyond 31 bits end the stream, or the tunnel for the session's.
func TestWindowOverflow(t *testing.T) {
	c, peer := rawPeer(t, Config{FlowControl: true})
	s, _ := c.OpenStream(nil, false)
	peer.Write(unhex(t, "80030009 00000008 00000001 7fffffff"))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
	peer.Write(unhex(t, "80030009 00000008 00000000 7fffffff"))
	<-c.Done()
	if !errors.Is(c.Err(), ErrProtocol) {
		t.Error(c.Err())
	}
}

// Two goroutines serve a tunnel, however many streams it has.
func TestGoroutines(t *testing.T) {
	client, server := tunnel(t, Config{PingInterval: time.Hour})
	before := runtime.NumGoroutine()
	for range 100 {
		pair(t, client, server)
	}
	within(t, time.Second, "no goroutine more for 100 streams", func() bool { return runtime.NumGoroutine() <= before })
}

// A peer that opens streams and resets them at once cannot fill the backlog
// beyond the limit.
func TestRapidReset(t *testing.T) {
	a, b := transports(t)
	client, server := New(a, Config{}), New(b, Config{Server: true, MaxStreams: 8})
	defer client.Close()
	defer server.Close()
	var last *Stream
	for range 100 {
		s, err := client.OpenStream(nil, false)
		if err != nil {
			t.Fatal(err)
		}
		s.Reset()
		last = s
	}
	within(t, time.Second, "all seen", func() bool { return lastID(server) == last.ID() })
	server.mu.Lock()
	defer server.mu.Unlock()
	if n := len(server.backlog); n > 8 {
		t.Errorf("%d streams wait to be accepted", n)
	}
}

// After GOAWAY, what is still on its way is refused, and GOAWAY has not counted it in.
func TestGoAwayRefusesWhatIsOnItsWay(t *testing.T) {
	server, peer := rawPeer(t, Config{Server: true})
	var c compressor
	peer.Write(opening(t, &c, 1))
	accept(t, server)
	server.GoAway()
	peer.Write(opening(t, &c, 3))
	peer.Write(append(appendDataHeader(nil, 1, flagFin, 2), "ok"...))
	refused, left := unhex(t, "80030003 00000008 00000003 00000003"), unhex(t, "80030007 00000008 00000001 00000000")
	var got []byte
	buf := make([]byte, 1<<10)
	peer.SetReadDeadline(time.Now().Add(testenv.Patience))
	for !bytes.Contains(got, refused) {
		n, err := peer.Read(buf)
		if err != nil {
			t.Fatalf("%v after %x", err, got)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Contains(got, left) {
		t.Errorf("no GOAWAY for what came before in %x", got)
	}
	if server.Streams() != 1 {
		t.Errorf("%d streams are open, want the one that had arrived", server.Streams())
	}
}
