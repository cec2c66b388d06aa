package spdy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func mustSend(t testing.TB, s *Stream, p string) {
	t.Helper()
	if queued, err := s.WriteDatagram([]byte(p)); !queued || err != nil {
		t.Fatalf("a datagram of %d bytes: %v, %v", len(p), queued, err)
	}
}

// The frame that opens a stream is ahead of its first datagram, and a FIN behind its last.
func TestDatagramsArriveInOrder(t *testing.T) {
	for range 100 {
		client, server := tunnel(t, Config{FlowControl: true})
		a, b := pair(t, client, server)
		mustSend(t, a, "one")
		mustSend(t, a, "two")
		mustSend(t, b, strings.Repeat("x", 65509))
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		mustRead(t, b, "onetwo")
		if _, err := b.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // itself
			t.Fatalf("behind the last datagram is %v, want the end of file", err)
		}
		mustRead(t, a, strings.Repeat("x", 65509))
		if _, err := a.WriteDatagram(nil); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("behind the end: %v, want ErrClosed", err)
		}
		client.Close()
	}
}

// What the peer has no room for is dropped at once, and what it has room for again is not.
func TestDatagramWithoutWindow(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true, ReceiveBuffer: initialWindow})
	a, b := pair(t, client, server)
	text := strings.Repeat("x", 60<<10)
	mustSend(t, a, text)
	if queued, err := a.WriteDatagram([]byte(text)); queued || err != nil || a.Dropped() != 1 {
		t.Fatalf("without window: %v, %v, %d dropped", queued, err, a.Dropped())
	}
	mustRead(t, b, text)
	within(t, time.Minute, "there is room", func() bool {
		queued, _ := a.WriteDatagram([]byte(text))
		return queued
	})
	mustRead(t, b, text)
}

// Datagrams overtake what waits of other streams, but not what is being written.
func TestDatagramsGoFirst(t *testing.T) {
	a, peer := transports(t)
	// The sockets hold what was ahead of the datagram, too.
	if err := errors.Join(a.(*net.TCPConn).SetWriteBuffer(64<<10), peer.(*net.TCPConn).SetReadBuffer(64<<10)); err != nil {
		t.Fatal(err)
	}
	c := New(a, Config{FlowControl: true})
	defer c.Close()
	bulk, _ := c.OpenStream(Header{"a": {"bulk"}}, false)
	udp, _ := c.OpenStream(Header{"a": {"udp"}}, false)
	within(t, time.Minute, "both are open", func() bool {
		c.send.mu.Lock()
		defer c.send.mu.Unlock()
		return udp.out.opened < c.send.batches
	})
	c.send.credit(bulk, 1<<22)
	c.send.credit(nil, 1<<22)
	go bulk.Write(bytes.Repeat([]byte("x"), 1<<22)) // more than the sockets hold
	within(t, time.Minute, "the transport is stuck", func() bool {
		c.send.mu.Lock()
		defer c.send.mu.Unlock()
		return len(c.send.out) >= batchSize
	})
	mustSend(t, udp, "first")
	before := 0
	for {
		id, payload := readData(t, peer)
		if id == udp.ID() {
			if string(payload) != "first" {
				t.Errorf("got %q", payload)
			}
			break
		}
		before += len(payload)
	}
	if before > 4*batchSize {
		t.Errorf("%d bytes were ahead of the datagram", before)
	}
	peer.Close()
}

// readData reads the next DATA frame.
func readData(t *testing.T, r io.Reader) (id uint32, payload []byte) {
	t.Helper()
	for {
		var header [headerSize]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			t.Fatal(err)
		}
		payload := make([]byte, binary.BigEndian.Uint32(header[4:])&0xffffff)
		if _, err := io.ReadFull(r, payload); err != nil {
			t.Fatal(err)
		}
		if id := binary.BigEndian.Uint32(header[:]); id&(1<<31) == 0 {
			return id, payload
		}
	}
}

// Where there are more datagrams than the transport takes, other streams get their turns.
func TestDatagramsLeaveRoom(t *testing.T) {
	c := &Conn{streams: map[uint32]*Stream{}}
	c.send.init(Config{FlowControl: true}.withDefaults())
	c.send.batches = 1
	udp, bulk := c.newStream(1, nil, 0, 0), c.newStream(3, nil, 0, 0)
	c.send.credit(udp, 1<<20)
	c.send.credit(nil, 1<<20)
	for range 3 {
		c.send.mu.Lock()
		c.send.appendData(bulk, []byte("bulk"))
		c.send.mu.Unlock()
		for ahead := 0; ; {
			mustSend(t, udp, strings.Repeat("x", 16<<10))
			out, _, _ := c.send.next()
			if frameHeader(out).streamID() == bulk.ID() {
				break
			}
			if ahead += len(out); ahead > maxAhead+16<<10 {
				t.Fatalf("%d bytes of datagrams were ahead of another stream", ahead)
			}
		}
	}
	if out, _, _ := c.send.next(); frameHeader(out).streamID() != udp.ID() {
		t.Error("the last datagram is missing")
	}
}

// A datagram that the transport has not taken in time is dropped, and its window given back.
func TestOldDatagramIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Conn{streams: map[uint32]*Stream{}}
		c.send.init(Config{FlowControl: true}.withDefaults())
		c.send.batches = 1
		s := c.newStream(1, nil, 0, 0)
		window := s.out.window
		mustSend(t, s, "old")
		time.Sleep(maxDelay + 1)
		mustSend(t, s, "new")
		if got := string(c.send.takeDatagrams()[headerSize:]); got != "new" {
			t.Errorf("%q is written, want the new one alone", got)
		}
		if s.Dropped() != 1 || s.out.window != window-3 {
			t.Errorf("%d dropped, %d of the window are used", s.Dropped(), window-s.out.window)
		}
		c.send.close()
		if out, _, _ := c.send.next(); len(out) > 0 {
			t.Errorf("%q is left", out)
		}
	})
}

// Await returns once all of it is there, and no sooner, or when no more can come.
func TestAwait(t *testing.T) {
	for name, end := range map[string]func(a, b *Stream) error{
		"all":      func(a, _ *Stream) error { _, err := a.WriteDatagram(make([]byte, 50)); return err },
		"the end":  func(a, _ *Stream) error { return a.CloseWrite() },
		"a reset":  func(a, _ *Stream) error { return a.Reset() },
		"closed":   func(_, b *Stream) error { return b.Close() },
		"the time": func(_, b *Stream) error { return b.SetReadDeadline(time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			client, server := tunnel(t, Config{FlowControl: true})
			a, b := pair(t, client, server)
			mustSend(t, a, strings.Repeat("x", 50))
			mustRead(t, b, "x") // so that something is there
			done := make(chan struct{})
			go func() { b.Await(99); close(done) }()
			select {
			case <-done:
				t.Fatal("returned with 49 bytes of 99")
			case <-time.After(50 * time.Millisecond):
			}
			if err := end(a, b); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatal("still waits")
			}
		})
	}
}
