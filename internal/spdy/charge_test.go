package spdy

import (
	"runtime"
	"strings"
	"testing"
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
