package spdy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/moby/spdystream"
	stockframes "github.com/moby/spdystream/spdy"

	"porthole.dev/porthole/internal/testenv"
)

// The stock library reads our frames as we mean them.
func TestStockReadsVectors(t *testing.T) {
	for _, v := range vectors {
		if v.frame.block != nil {
			continue // its blocks are not real ones
		}
		framer, err := stockframes.NewFramer(io.Discard, bytes.NewReader(unhex(t, v.wire)))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := framer.ReadFrame(); err != nil {
			t.Errorf("%s: %+v, %v", v.name, f, err)
		}
	}
}

// Header blocks cross in both directions, several through one context.
func TestStockHeaders(t *testing.T) {
	var wire bytes.Buffer
	framer, err := stockframes.NewFramer(&wire, &wire)
	if err != nil {
		t.Fatal(err)
	}
	var e headerEncoder
	var d headerDecoder
	for i, h := range headerSets {
		f := control{kind: kindSynStream, streamID: uint32(2*i + 1), block: e.append(nil, text(t, h))}
		wire.Write(f.append(nil))
		got, err := framer.ReadFrame()
		if err != nil || len(got.(*stockframes.SynStreamFrame).Headers) != len(h) {
			t.Fatalf("stock reads %+v, %v", got, err)
		}
		framer.WriteFrame(got)
		b := bytes.Clone(wire.Bytes())
		wire.Reset()
		if f, err = parseControl(b[:headerSize], b[headerSize:]); err != nil {
			t.Fatal(err)
		}
		back, err := d.decode(f.block)
		if err != nil || len(back) != len(h) {
			t.Fatalf("read back %v, %v", back, err)
		}
		for name := range h {
			if back.Get(name) != h.Get(name) {
				t.Errorf("%s: %q", name, back.Get(name))
			}
		}
	}
}

// duplex is what a stream of either library offers.
type duplex interface {
	io.ReadWriter
	Reset() error
}

// closeWrite half-closes: stock streams do that by Close.
func closeWrite(s duplex) error {
	if ours, ok := s.(*Stream); ok {
		return ours.CloseWrite()
	}
	return s.(*spdystream.Stream).Close()
}

// interops run a test on a stream between one of ours and a stock end.
func interops(t *testing.T, test func(t *testing.T, opened, accepted duplex)) {
	headers := Header{"Streamtype": {"data"}, "Port": {"8080"}}
	t.Run("our client", func(t *testing.T) {
		a, b := transports(t)
		streams := serveStock(t, b, true)
		c := New(a, Config{PingInterval: 50 * time.Millisecond})
		defer c.Close()
		s, err := c.OpenStream(headers, false)
		if err != nil {
			t.Fatal(err)
		}
		peer := <-streams
		if got := peer.Headers().Get("streamType"); got != "data" {
			t.Errorf("streamType %q", got)
		}
		test(t, s, peer)
	})
	t.Run("our server", func(t *testing.T) {
		a, b := transports(t)
		c := New(b, Config{Server: true, PingInterval: 50 * time.Millisecond})
		defer c.Close()
		client := stock(t, a, false, spdystream.NoOpStreamHandler)
		s, err := client.CreateStream(http.Header(headers), nil, false)
		if err == nil {
			err = s.WaitTimeout(testenv.Patience)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Ping(); err != nil {
			t.Error(err)
		}
		peer := accept(t, c)
		if got := peer.Headers().Get("streamType"); got != "data" {
			t.Errorf("streamType %q", got)
		}
		test(t, s, peer)
	})
}

func TestStockHalfClose(t *testing.T) {
	interops(t, func(t *testing.T, opened, accepted duplex) {
		mustWrite(t, opened, "question")
		closeWrite(opened)
		if got, err := io.ReadAll(accepted); err != nil || string(got) != "question" {
			t.Fatalf("read %q, %v", got, err)
		}
		time.Sleep(time.Second)
		mustWrite(t, accepted, "answer")
		closeWrite(accepted)
		if got, err := io.ReadAll(opened); err != nil || string(got) != "answer" {
			t.Fatalf("read %q, %v", got, err)
		}
	})
}

// A stock end resets the error stream right behind the text of an error.
func TestStockResetBehindText(t *testing.T) {
	interops(t, func(t *testing.T, opened, accepted duplex) {
		from, to := accepted, opened
		if _, ours := accepted.(*Stream); ours {
			from, to = opened, accepted
		}
		mustWrite(t, from, "error forwarding port")
		from.Reset()
		if got, err := io.ReadAll(to); !errors.Is(err, ErrReset) || string(got) != "error forwarding port" {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := to.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("write: %v", err)
		}
	})
}

// Our reset ends the stock end's reading.
func TestStockIsReset(t *testing.T) {
	interops(t, func(t *testing.T, opened, accepted duplex) {
		from, to := opened, accepted
		if _, ours := accepted.(*Stream); ours {
			from, to = accepted, opened
		}
		from.Reset()
		if n, err := to.Read(make([]byte, 1)); err == nil {
			t.Errorf("read %d bytes", n)
		}
	})
}

// Data right behind SYN_STREAM, before any reply, is what saves the round trips.
func TestStockTakesPipelinedData(t *testing.T) {
	a, b := transports(t)
	streams := serveStock(t, b, true)
	c := New(a, Config{})
	defer c.Close()
	for range 200 {
		c.Cork()
		s, err := c.OpenStream(Header{"Port": {"8080"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, s, "at once")
		s.CloseWrite()
		c.Uncork()
		if got, err := io.ReadAll(<-streams); err != nil || string(got) != "at once" {
			t.Fatalf("read %q, %v", got, err)
		}
		s.Reset()
	}
}

// bulkSize is what TestBulk moves in each direction.
func bulkSize() int64 {
	if raceDetector || testing.Short() {
		return 64 << 20
	}
	return 1 << 30
}

// pour writes n pseudo-random bytes in odd sizes, half-closes, and returns their hash.
func pour(w duplex, n int64) (hash.Hash, error) {
	sum := sha256.New()
	src := io.LimitReader(rand.NewChaCha8([32]byte{7}), n)
	sizes := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 100_000)
	for {
		m, err := io.ReadFull(src, buf[:1+sizes.IntN(len(buf))])
		sum.Write(buf[:m])
		if _, err := w.Write(buf[:m]); err != nil {
			return nil, err
		}
		if err != nil {
			return sum, closeWrite(w)
		}
	}
}

// checkPour moves a hashed bulk from one stream to another.
func checkPour(t *testing.T, from, to duplex) {
	t.Helper()
	type result struct {
		sum hash.Hash
		err error
	}
	poured := make(chan result, 1)
	go func() {
		sum, err := pour(from, bulkSize())
		poured <- result{sum, err}
	}()
	got := sha256.New()
	n, err := io.Copy(got, to)
	if err != nil || n != bulkSize() {
		t.Fatalf("%d bytes, %v", n, err)
	}
	sent := <-poured
	if sent.err != nil || !bytes.Equal(sent.sum.Sum(nil), got.Sum(nil)) {
		t.Fatalf("hashes differ, %v", sent.err)
	}
}

func TestBulk(t *testing.T) {
	modes(t, func(t *testing.T, cfg Config) {
		client, server := tunnel(t, cfg)
		a, b := pair(t, client, server)
		checkPour(t, a, b)
		checkPour(t, b, a)
	})
}

// Stock writers cannot follow their own FIN with more, so each direction is
// poured on the stream in turn.
func TestStockBulk(t *testing.T) {
	interops(t, func(t *testing.T, opened, accepted duplex) {
		checkPour(t, opened, accepted)
		checkPour(t, accepted, opened)
	})
}

// Many streams at once through a stock server that sends everything back.
func TestStockManyStreams(t *testing.T) {
	a, b := transports(t)
	stock(t, b, true, spdystream.MirrorStreamHandler)
	c := New(a, Config{})
	defer c.Close()
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			s, err := c.OpenStream(Header{"Port": {"8080"}}, false)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			go func() { s.Write(make([]byte, 1<<20)); s.CloseWrite() }()
			if n, err := io.Copy(io.Discard, s); err != nil || n != 1<<20 {
				t.Errorf("%d bytes came back, %v", n, err)
			}
		})
	}
	clients.Wait()
	within(t, 5*time.Second, "streams gone", func() bool { return c.Streams() == 0 })
}
