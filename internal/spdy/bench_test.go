package spdy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/moby/spdystream"
)

// readOnly hides WriteTo, so that Read is measured.
type readOnly struct{ io.Reader }

// BenchmarkBulk moves data one way over loopback TCP, in writes of 32 KiB, as a
// copy loop makes them. "tcp" is the same without a tunnel.
func BenchmarkBulk(b *testing.B) {
	b.Run("tcp", func(b *testing.B) {
		client, server := transports(b)
		bulk(b, client, server)
	})
	for _, flow := range []bool{false, true} {
		b.Run(fmt.Sprintf("ours/flowcontrol=%v", flow), func(b *testing.B) {
			s, r := newPair(b, Config{FlowControl: flow})
			bulk(b, closeWriter{s}, r)
		})
		b.Run(fmt.Sprintf("ours/flowcontrol=%v/read", flow), func(b *testing.B) {
			s, r := newPair(b, Config{FlowControl: flow})
			bulk(b, closeWriter{s}, readOnly{r})
		})
	}
	b.Run("to-stock-server", func(b *testing.B) {
		s, r := toStock(b)
		bulk(b, s, readOnly{r})
	})
	b.Run("stock-to-stock", func(b *testing.B) {
		s, r := stockToStock(b)
		bulk(b, s, readOnly{r})
	})
}

func newPair(t testing.TB, cfg Config) (a, b *Stream) {
	client, server := tunnel(t, cfg)
	return pair(t, client, server)
}

// bulk writes b.N chunks to w and waits until r has them all.
func bulk(b *testing.B, w io.WriteCloser, r io.Reader) {
	const size = 32 << 10
	done := make(chan int64)
	go func() {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, size))
		done <- n
	}()
	buf := make([]byte, size)
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := w.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	w.Close()
	if n := <-done; n != int64(b.N)*size {
		b.Fatalf("%d bytes arrived of %d", n, b.N*size)
	}
}

func toStock(b *testing.B) (io.WriteCloser, io.Reader) {
	client, server := transports(b)
	streams := serveStock(b, server, true)
	c := New(client, Config{})
	b.Cleanup(func() { c.Close() })
	s, err := c.OpenStream(Header{}, false)
	if err != nil {
		b.Fatal(err)
	}
	return closeWriter{s}, <-streams
}

func stockToStock(b *testing.B) (io.WriteCloser, io.Reader) {
	client, server := transports(b)
	streams := serveStock(b, server, true)
	c := stock(b, client, false, spdystream.NoOpStreamHandler)
	s, err := c.CreateStream(http.Header{}, nil, false)
	if err != nil {
		b.Fatal(err)
	}
	return s, <-streams
}

// closeWriter makes Close of a stream CloseWrite.
type closeWriter struct{ *Stream }

func (c closeWriter) Close() error { return c.CloseWrite() }

// stock is a peer from the library that Kubernetes uses.
func stock(t testing.TB, conn net.Conn, server bool, handler spdystream.StreamHandler) *spdystream.Connection {
	t.Helper()
	c, err := spdystream.NewConnection(conn, server)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); c.Serve(handler) }()
	t.Cleanup(func() { conn.Close(); <-served })
	return c
}

// serveStock runs a stock peer that answers each stream and hands it out.
func serveStock(t testing.TB, conn net.Conn, server bool) <-chan *spdystream.Stream {
	streams := make(chan *spdystream.Stream, 64)
	stock(t, conn, server, func(s *spdystream.Stream) {
		s.SendReply(http.Header{}, false)
		streams <- s
	})
	return streams
}

// BenchmarkRoundTrip bounces one byte. "tcp" is the same without a tunnel.
func BenchmarkRoundTrip(b *testing.B) {
	b.Run("tcp", func(b *testing.B) {
		s, r := transports(b)
		roundTrip(b, s, r)
	})
	b.Run("ours", func(b *testing.B) {
		s, r := newPair(b, Config{})
		roundTrip(b, s, r)
	})
	b.Run("stock-to-stock", func(b *testing.B) {
		client, server := transports(b)
		streams := serveStock(b, server, true)
		c := stock(b, client, false, spdystream.NoOpStreamHandler)
		s, err := c.CreateStream(http.Header{}, nil, false)
		if err != nil {
			b.Fatal(err)
		}
		roundTrip(b, s, <-streams)
	})
}

func roundTrip(b *testing.B, s, echo io.ReadWriter) {
	go io.Copy(struct{ io.Writer }{echo}, readOnly{echo})
	buf := []byte{1}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s.Write(buf)
		if _, err := io.ReadFull(s, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTunnel makes a tunnel over a transport that does nothing: what an idle
// one costs in memory.
func BenchmarkTunnel(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		c := New(newRecorder(), Config{})
		if _, err := c.OpenStream(Header{"Port": {"8080"}}, false); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkOpen opens a stream, sends one byte both ways, and closes it.
func BenchmarkOpen(b *testing.B) {
	client, server := tunnel(b, Config{})
	go func() {
		for {
			s, err := server.Accept(b.Context())
			if err != nil {
				return
			}
			io.Copy(s, s)
			s.Close()
		}
	}()
	headers := Header{"Streamtype": {"data"}, "Port": {"8080"}, "Requestid": {"1"}}
	buf := []byte{1}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s, err := client.OpenStream(headers, false)
		if err != nil {
			b.Fatal(err)
		}
		s.Write(buf)
		s.CloseWrite()
		if _, err := io.ReadAll(s); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
