package spdy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// A reply may come long after the request's end, in either direction.
func TestHalfClose(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		for _, ends := range [][2]*Stream{{a, b}, flip(pair(t, client, server))} {
			halfClose(t, ends[0], ends[1])
		}
		within(t, time.Second, "streams gone", func() bool {
			return client.Streams() == 0 && server.Streams() == 0
		})
	})
}

func flip(a, b *Stream) [2]*Stream { return [2]*Stream{b, a} }

func halfClose(t *testing.T, asker, answerer *Stream) {
	t.Helper()
	mustWrite(t, asker, "question")
	if err := asker.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(answerer); err != nil || string(got) != "question" {
		t.Fatalf("read %q, %v", got, err)
	}
	time.Sleep(time.Second)
	mustWrite(t, answerer, "answer")
	if err := answerer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(asker); err != nil || string(got) != "answer" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := asker.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
}

// Whoever has seen a FIN finds that it was sent, even while CloseWrite is still under way.
func TestSentFin(t *testing.T) {
	client, server := tunnel(t, Config{})
	a, b := pair(t, client, server)
	if a.SentFin() {
		t.Error("a new stream has sent its FIN")
	}
	client.mu.Lock() // which CloseWrite wants when the FIN is on its way
	closed := make(chan error, 1)
	go func() { closed <- a.CloseWrite() }()
	_, err := b.Read(make([]byte, 1))
	sent := a.SentFin()
	client.mu.Unlock()
	if !errors.Is(err, io.EOF) || !sent {
		t.Errorf("read: %v, and the FIN was sent: %t", err, sent)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A Write that is cut short leaves no FIN behind, which would make half a message look whole.
func TestCutSendsNoFin(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true})
	a, b := pair(t, client, server)
	cut := make(chan error, 1)
	go func() {
		_, err := a.Write(make([]byte, 64<<20)) // nobody reads
		cut <- err
	}()
	awaitWindowFull(t, a)
	a.Close()
	if err := <-cut; !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if a.SentFin() {
		t.Error("a FIN was sent")
	}
	if _, err := io.ReadAll(b); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
}

// A reset hits both directions of its stream and no other stream.
func TestReset(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		other, echo := pair(t, client, server)
		mustWrite(t, a, "last words")
		mustRead(t, b, "last")
		a.Reset()
		if got, err := io.ReadAll(b); !errors.Is(err, ErrReset) || string(got) != " words" {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("write: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read at the resetting end: %v", err)
		}
		mustWrite(t, other, "alive")
		mustRead(t, echo, "alive")
	})
}

// What came with a FIN is complete, and a reset behind it does not take it away.
func TestResetAfterFin(t *testing.T) {
	client, server := tunnel(t, Config{})
	a, b := pair(t, client, server)
	mustWrite(t, a, "all of it")
	a.CloseWrite()
	a.Reset()
	within(t, time.Second, "write fails", func() bool {
		_, err := b.Write([]byte("x"))
		return errors.Is(err, ErrReset)
	})
	if got, err := io.ReadAll(b); err != nil || string(got) != "all of it" {
		t.Fatalf("read %q, %v", got, err)
	}
}

// Closing with bytes unread tells the peer, whose writing would be for nothing,
// and leaves what was written here intact.
func TestCloseUnread(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		mustWrite(t, b, "answer")
		mustWrite(t, a, "unread")
		within(t, time.Second, "arrival", func() bool { b.in.mu.Lock(); defer b.in.mu.Unlock(); return b.in.buffered > 0 })
		b.Close()
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
			t.Fatalf("read %q, %v", got, err)
		}
		within(t, time.Second, "write fails", func() bool {
			_, err := a.Write([]byte("more"))
			return errors.Is(err, ErrReset)
		})
	})
}

// A closed stream swallows what still comes, megabytes of it, and nobody waits.
func TestCloseWhileReceiving(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		wrote := make(chan error, 1)
		go func() {
			_, err := a.Write(make([]byte, 64<<20))
			wrote <- err
		}()
		mustRead(t, b, strings.Repeat("\x00", 1<<20))
		b.Close()
		if err := <-wrote; !errors.Is(err, ErrReset) {
			t.Errorf("write: %v", err)
		}
		other, echo := pair(t, client, server)
		mustWrite(t, other, "alive")
		mustRead(t, echo, "alive")
	})
}

// With flow control a reader that stands still holds up its own writer alone.
func TestStalledStreamAlone(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true, ReceiveBuffer: 128 << 10})
	a, _ := pair(t, client, server)
	stuck := make(chan int, 1)
	go func() {
		n, _ := a.Write(make([]byte, 16<<20))
		stuck <- n
	}()
	awaitWindowFull(t, a)
	for range 8 {
		other, echo := pair(t, client, server)
		go func() { io.Copy(echo, echo); echo.CloseWrite() }()
		go func() { other.Write(make([]byte, 4<<20)); other.CloseWrite() }()
		if n, err := io.Copy(io.Discard, other); err != nil || n != 4<<20 {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	a.SetWriteDeadline(time.Unix(1, 0))
	if n := <-stuck; n != 128<<10 {
		t.Errorf("%d bytes went to a reader that stood still", n)
	}
	within(t, time.Second, "not stalled", func() bool { return server.Stalled() == 0 })
}

// awaitWindowFull waits until a stream may send no more.
func awaitWindowFull(t *testing.T, s *Stream) {
	t.Helper()
	within(t, 10*time.Second, "the window full", func() bool {
		s.conn.send.mu.Lock()
		defer s.conn.send.mu.Unlock()
		return s.out.window == 0
	})
}

// Without flow control the tunnel stands still, says so, and holds no more than
// the stream's buffer; when the reader goes on, or goes away, all goes on.
func TestStalledTunnel(t *testing.T) {
	for name, release := range map[string]func(b *Stream){
		"read":  func(b *Stream) { go io.Copy(io.Discard, b) },
		"close": func(b *Stream) { b.Close() },
		"reset": func(b *Stream) { b.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			client, server := tunnel(t, Config{ReceiveBuffer: 128 << 10})
			a, b := pair(t, client, server)
			go a.Write(make([]byte, 32<<20))
			within(t, 5*time.Second, "both ends stalled", func() bool {
				return server.Stalled() > 50*time.Millisecond && client.Stalled() > 50*time.Millisecond
			})
			b.in.mu.Lock()
			held := 0
			for _, c := range b.in.chunks {
				held += len(c.buf)
			}
			b.in.mu.Unlock()
			if held > 256<<10 {
				t.Errorf("stream holds %d bytes", held)
			}
			release(b)
			other, echo := pair(t, client, server)
			mustWrite(t, other, "alive")
			mustRead(t, echo, "alive")
			within(t, 5*time.Second, "no longer stalled", func() bool { return server.Stalled() == 0 })
		})
	}
}

// Losing the tunnel is never a clean end, but what came complete stays complete.
func TestTunnelLost(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		done, full := pair(t, client, server)
		mustWrite(t, done, "complete")
		done.CloseWrite()
		mustWrite(t, a, "part")
		mustRead(t, b, "part")
		client.transport.Close()
		for _, s := range []*Stream{a, b} {
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrTunnel) || errors.Is(err, io.EOF) {
				t.Errorf("read: %v", err)
			}
			within(t, time.Second, "write fails", func() bool {
				_, err := s.Write([]byte("x"))
				return errors.Is(err, ErrTunnel)
			})
		}
		if got, err := io.ReadAll(full); err != nil || string(got) != "complete" {
			t.Errorf("read %q, %v", got, err)
		}
		if err := server.Err(); !errors.Is(err, ErrTunnel) {
			t.Errorf("tunnel: %v", err)
		}
	})
}

// Read gathers what small frames brought, and WriteTo is as exact as Read.
func TestManySizes(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		var sent bytes.Buffer
		for n := 1; n < 200_000; n = n*3/2 + 1 {
			sent.Write(bytes.Repeat([]byte{byte(n)}, n))
		}
		go func() {
			for p, n := sent.Bytes(), 1; len(p) > 0; n = n*7/5 + 1 {
				m := min(n, len(p))
				a.Write(p[:m])
				p = p[m:]
			}
			a.CloseWrite()
		}()
		var got bytes.Buffer
		if _, err := b.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), sent.Bytes()) {
			t.Fatalf("%d bytes of %d, %v", got.Len(), sent.Len(), err)
		}
	})
}

// A write past its deadline says how much went out, and the stream lives on.
func TestWriteDeadlinePart(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true})
	a, b := pair(t, client, server)
	a.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := a.Write(make([]byte, 8<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	a.SetWriteDeadline(time.Time{})
	go func() { a.Write([]byte("end")); a.CloseWrite() }()
	got, err := io.ReadAll(b)
	if err != nil || len(got) != n+3 {
		t.Fatalf("%d bytes of %d, %v", len(got), n+3, err)
	}
}

// Closing in the middle of a write is a loss for the peer, not an end.
func TestCloseCutsWrite(t *testing.T) {
	client, server := tunnel(t, Config{FlowControl: true})
	a, b := pair(t, client, server)
	wrote := make(chan error, 1)
	go func() { _, err := a.Write(make([]byte, 16<<20)); wrote <- err }()
	mustRead(t, b, "\x00")
	a.Close()
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, err := io.Copy(io.Discard, b); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
}

// Expendable streams hold no more together than they may, and what is over that costs
// the stream that is over, and no other.
func TestExpendable(t *testing.T) {
	const size = 256 << 10
	client, server := tunnel(t, Config{ReceiveBuffer: size})
	beside, besides := pair(t, client, server)
	var kept [][2]*Stream
	for range maxExpendable/size + 1 {
		a, b := pair(t, client, server)
		b.SetExpendable(true)
		if _, err := io.WriteString(a, strings.Repeat("x", size-1)); err != nil && !errors.Is(err, ErrReset) {
			t.Fatal(err)
		}
		kept = append(kept, [2]*Stream{a, b})
	}
	mustWrite(t, beside, "alive")
	mustRead(t, besides, "alive") // behind all that, so it has been taken in
	last := kept[len(kept)-1]
	if _, err := io.Copy(io.Discard, last[1]); !errors.Is(err, ErrReset) {
		t.Errorf("the last: %v", err)
	}
	for i, s := range kept[:len(kept)-1] {
		s[1].SetExpendable(false)
		s[0].CloseWrite()
		if n, err := io.Copy(io.Discard, s[1]); n != size-1 || err != nil {
			t.Fatalf("stream %d: %d bytes, %v", i, n, err)
		}
	}
	if n := server.chunks.expendable.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}
