package spdy

import (
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// opening is the SYN_STREAM of a client's stream.
func opening(t *testing.T, c *compressor, id uint32, header ...string) []byte {
	return wire(control{kind: kindSynStream, streamID: id, block: c.block(t, pairs(header...))})
}

// wire is a frame as it is sent.
func wire(f control) []byte { return f.append(nil) }

// heap is what is in use, in bytes.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// charged has a peer do something with many streams, and wants no more memory to be
// taken for it than is charged, but for half as much again.
func charged(t *testing.T, act func(send func([]byte), id uint32, c *compressor)) {
	const streams = 400
	budget := &Budget{Size: 256 << 20, MaxShares: 1}
	server, peer := rawPeer(t, Config{Server: true, FlowControl: true, Share: budget.NewShare()})
	go func() {
		b := make([]byte, 64<<10)
		for {
			if _, err := peer.Read(b); err != nil {
				return
			}
		}
	}()
	before := heap()
	var c compressor
	for i := range uint32(streams) {
		act(func(b []byte) { peer.Write(b) }, 2*i+1, &c)
	}
	peer.Write(wire(control{kind: kindPing, value: 1}))
	var last uint64
	within(t, 0, "all is read", func() bool {
		now := server.progress.Load()
		same := now == last && now > streams
		last = now
		runtime.Gosched()
		return same && lastID(server) == 2*streams-1
	})
	if taken, held := heap()-before, budget.Held(); taken > held+held/2 {
		t.Errorf("%d bytes are taken, %d are charged", taken, held)
	} else {
		t.Logf("%d bytes are taken, %d are charged", taken, held)
	}
	runtime.KeepAlive(server)
}

// What streams take is charged, whatever the peer makes of them.
func TestChargedForWhatIsTaken(t *testing.T) {
	t.Run("late", func(t *testing.T) {
		late := strings.Repeat("x", maxLateHeaders-10)
		charged(t, func(send func([]byte), id uint32, c *compressor) {
			send(opening(t, c, id, "port", "80"))
			send(wire(control{kind: kindHeaders, streamID: id, block: c.block(t, pairs("x", late))}))
			send(append(appendDataHeader(nil, id, flagFin, 1), 1))
		})
	})
	t.Run("ended", func(t *testing.T) {
		charged(t, func(send func([]byte), id uint32, c *compressor) {
			send(opening(t, c, id, "port", "80"))
			send(append(appendDataHeader(nil, id, flagFin, smallPayload+1), make([]byte, smallPayload+1)...))
		})
	})
}

// lastID is the number of the peer's last stream.
func lastID(c *Conn) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastID
}

// A tunnel whose streams have used up its Share refuses more of them while data fills what goes out, and lives on.
func TestRefusedBesideData(t *testing.T) {
	budget := &Budget{Size: 1 << 20, MaxShares: 1}
	near, peer := net.Pipe()
	defer peer.Close()
	c := New(near, Config{Server: true, FlowControl: true, Share: budget.NewShare()})
	defer c.Close()
	headers := new(compressor)
	send := func(frames []byte) {
		t.Helper()
		if _, err := peer.Write(frames); err != nil {
			t.Fatalf("the tunnel: %v", c.Err())
		}
	}
	const much = 1 << 20
	first := opening(t, headers, 1, "a", "b")
	for _, id := range []uint32{0, 1} {
		first = append(first, wire(control{kind: kindWindowUpdate, streamID: id, value: much})...)
	}
	send(first)
	s, err := c.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go s.Write(make([]byte, much))
	within(t, time.Minute, "nothing fills what goes out", func() bool {
		c.send.mu.Lock()
		defer c.send.mu.Unlock()
		return len(c.send.out) >= batchSize
	})
	for i := range uint32(4096) {
		send(opening(t, headers, 3+2*i, "a", "b"))
	}
	if held := budget.Held(); held < budget.Size/2 {
		t.Errorf("only %d bytes are charged", held)
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}
