package spdy

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

// A window grows while its reader keeps up, and what it grew by is given back.
func TestWindowGrows(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true, ReceiveBuffer: initialWindow})
	a, b := pair(t, client, server)
	for range 200 { // one window after the other, read to its end
		mustWrite(t, a, strings.Repeat("x", initialWindow/2))
		io.ReadFull(b, make([]byte, initialWindow/2))
	}
	b.in.mu.Lock()
	limit := b.in.limit
	b.in.mu.Unlock()
	if limit <= initialWindow || limit > maxStreamWindow {
		t.Errorf("window is %d", limit)
	}
	if got := server.chunks.growth.Load(); got != int64(limit-initialWindow) {
		t.Errorf("growth is %d", got)
	}
	a.CloseWrite()
	io.Copy(io.Discard, b)
	b.Close()
	if got := server.chunks.growth.Load(); got != 0 {
		t.Errorf("growth is %d at the end", got)
	}
}

// A reader that the peer is ahead of does not need more.
func TestWindowOfSlowReader(t *testing.T) {
	b := &receiveBuffer{flows: true}
	b.init(&chunkPool{}, initialWindow)
	for range 20 {
		for b.buffered < b.limit { // the peer uses its window up
			b.commit(len(b.space(b.limit-b.buffered, func(bool) {})))
		}
		for credit := 0; credit == 0; {
			credit = b.consume(min(4<<10, len(first(b))))
		}
	}
	if b.limit != initialWindow {
		t.Errorf("window is %d", b.limit)
	}
	for range 3 { // it has caught up
		for b.buffered > 0 {
			b.consume(len(first(b)))
		}
		b.commit(len(b.space(b.limit, func(bool) {})))
	}
	if b.limit <= initialWindow {
		t.Errorf("window is %d", b.limit)
	}
}

// However large a window is, the peer hears of each mebibyte that was read.
func TestLargeWindowIsGivenBackInPieces(t *testing.T) {
	b := &receiveBuffer{flows: true}
	b.init(&chunkPool{}, maxStreamWindow)
	read := 0
	for credit := 0; credit == 0; {
		b.commit(len(b.space(64<<10, func(bool) {})))
		n := len(first(b))
		credit = b.consume(n)
		read += n
	}
	if read > maxUnacked+64<<10 {
		t.Errorf("nothing is given back before %d bytes are read", read)
	}
}

// A window that is made smaller may leave the peer with less than nothing, although all was
// read: what was too little to be told by the old one is told then.
func TestSmallerWindowIsNotStuck(t *testing.T) {
	budget := &Budget{Size: 512 << 10, MaxShares: 4} // a stream's first window fits, and no more
	server, peer := rawPeer(t, Config{Server: true, FlowControl: true, Share: budget.NewShare()})
	const sent = initialWindow/2 - 1
	var c compressor
	peer.Write(opening(t, &c, 1, "port", "80"))
	peer.Write(append(appendDataHeader(nil, 1, 0, sent), make([]byte, sent)...))
	if _, err := io.ReadFull(accept(t, server), make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	peer.SetReadDeadline(time.Now().Add(testenv.Patience))
	var r frameReader
	for r.init(peer); ; {
		f := readControlFrame(t, &r)
		switch {
		case f.kind == kindPing:
			peer.Write(wire(f)) // that the peer knows the smaller window
		case f.kind == kindWindowUpdate && f.streamID == 1:
			if f.value != sent {
				t.Errorf("%d bytes are given back, %d were read", f.value, sent)
			}
			return
		}
	}
}

func readControlFrame(t *testing.T, r *frameReader) control {
	t.Helper()
	b, err := r.next(headerSize)
	if err != nil {
		t.Fatal(err)
	}
	h := append(frameHeader(nil), b...)
	payload, err := r.next(h.length())
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseControl(h, payload)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// All windows together grow by so much and no more.
func TestWindowGrowthIsBounded(t *testing.T) {
	pool := &chunkPool{}
	var total int
	for range 100 {
		b := &receiveBuffer{}
		b.init(pool, 256<<10)
		for range 20 {
			b.grow()
		}
		if b.limit > maxStreamWindow {
			t.Fatalf("window is %d", b.limit)
		}
		total += b.limit - 256<<10
	}
	if total > maxGrowth || total < maxGrowth-maxStreamWindow {
		t.Errorf("windows grew by %d", total)
	}
}

// Headers come ahead of the reset that follows them.
func TestLateHeaders(t *testing.T) {
	client, server := tunnel(t, Config{})
	a, b := pair(t, client, server)
	if a.LateHeaders() != nil {
		t.Error("headers out of nowhere")
	}
	b.SendHeaders(Header{"Reason": {"refused"}})
	b.Reset()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
	if got := a.LateHeaders().Get("reason"); got != "refused" {
		t.Errorf("reason %q", got)
	}
	if err := b.SendHeaders(Header{}); !errors.Is(err, ErrReset) {
		t.Errorf("headers after the end: %v", err)
	}
	a, b = pair(t, client, server)
	b.SendHeaders(Header{"Reason": {strings.Repeat("x", maxLateHeaders)}})
	mustWrite(t, b, "x")
	mustRead(t, a, "x")
	if got := a.LateHeaders(); got != nil {
		t.Errorf("%d bytes of headers are kept", headersSize(got))
	}
}

// The owner learns of a reset and of the tunnel's end, before and after asking, and
// of nothing else.
func TestAfterLoss(t *testing.T) {
	client, server := tunnel(t, Config{})
	lost := make(chan string, 10)
	watch := func(name string, s *Stream) { s.AfterLoss(func() { lost <- name }) }
	want := func(name string) {
		t.Helper()
		select {
		case got := <-lost:
			if got != name {
				t.Fatalf("%s was lost, not %s", got, name)
			}
		case <-time.After(testenv.Patience):
			t.Fatalf("%s was not lost", name)
		}
	}
	ended, endedPeer := pair(t, client, server)
	watch("ended", endedPeer)
	ended.CloseWrite()
	endedPeer.CloseWrite()
	a, b := pair(t, client, server)
	watch("reset", b)
	a.Reset()
	want("reset")
	watch("late", b)
	want("late")
	_, b = pair(t, client, server)
	watch("cut", b)
	client.Close()
	want("cut")
}

// A transport whose peer is gone is noticed although nobody reads it.
func TestPeerClosed(t *testing.T) {
	a, b := transports(t)
	gone := make(chan struct{})
	server := New(b, Config{Server: true, ReceiveBuffer: 1 << 10, PeerClosed: func() bool {
		select {
		case <-gone:
			return true
		default:
			return false
		}
	}})
	defer server.Close()
	client := New(a, Config{})
	defer client.Close()
	s, peer := pair(t, client, server)
	go s.Write(make([]byte, 1<<20))
	time.Sleep(3 * watchPause)
	if err := server.Err(); err != nil {
		t.Fatal(err)
	}
	close(gone)
	select {
	case <-server.Done():
	case <-time.After(testenv.Patience):
		t.Fatal("the tunnel goes on")
	}
	if _, err := io.ReadAll(peer); !errors.Is(err, ErrTunnel) {
		t.Errorf("read: %v", err)
	}
}

// A probe is a frame that a peer of either library ignores.
func TestProbe(t *testing.T) {
	a, b := transports(t)
	server := New(b, Config{Server: true, Probe: true, PingInterval: 5 * time.Millisecond, PingTimeout: time.Millisecond})
	defer server.Close()
	var sent bytes.Buffer
	c := New(struct {
		io.Reader
		io.Writer
		io.Closer
	}{io.TeeReader(a, &sent), a, a}, Config{})
	within(t, 10*time.Second, "frames", func() bool { return c.progress.Load() > 5 })
	c.Close()
	if !bytes.HasPrefix(sent.Bytes(), unhex(t, "80030006 00000004 7fffffff")) {
		t.Errorf("sent %x", sent.Bytes())
	}
	if got := server.progress.Load(); got > 1 { // GOAWAY
		t.Errorf("%d answers", got)
	}
}

// first returns what can be read at once.
func first(b *receiveBuffer) []byte {
	p, _ := b.view()
	return p
}
