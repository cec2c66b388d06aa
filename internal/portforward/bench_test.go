package portforward

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// counting is a Transport that counts the writes to its tunnels.
type counting struct {
	http.RoundTripper
	writes *atomic.Int64
}

func (c counting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = counted{resp.Body.(io.ReadWriteCloser), c.writes}
	}
	return resp, err
}

type counted struct {
	io.ReadWriteCloser
	writes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.ReadWriteCloser.Write(p)
}

// count makes the client count its writes, and returns the counter.
func count(c *Client) *atomic.Int64 {
	writes := new(atomic.Int64)
	c.Transport = counting{c.Transport, writes}
	return writes
}

func benchWays(b *testing.B, bench func(b *testing.B, way func(*Client))) {
	b.Run("websocket", func(b *testing.B) { bench(b, func(*Client) {}) })
	b.Run("spdy", func(b *testing.B) { bench(b, spdyOnly) })
}

// BenchmarkConnect is a connection with one byte there and back.
func BenchmarkConnect(b *testing.B) {
	benchWays(b, func(b *testing.B, way func(*Client)) {
		var writes *atomic.Int64
		c := start(b, echo).client(b, way, func(c *Client) { writes = count(c) })
		exchange(b, c)
		writes.Store(0)
		b.ReportAllocs()
		for b.Loop() {
			conn := dial(b, c, 80)
			mustWrite(b, conn, "x")
			mustRead(b, conn, "x")
			conn.CloseWrite()
			io.Copy(io.Discard, conn)
			conn.Close()
		}
		b.ReportMetric(float64(writes.Load())/float64(b.N), "writes/op")
	})
}

// BenchmarkBulk moves data in pieces of 32 KiB, as a copy loop does.
func BenchmarkBulk(b *testing.B) {
	const size = 32 << 10
	b.Run("download", func(b *testing.B) {
		benchWays(b, func(b *testing.B, way func(*Client)) {
			c := start(b, func(r *request) { io.Copy(r.data, endless{}) }).client(b, way)
			conn := dial(b, c, 80)
			defer conn.Reset()
			b.SetBytes(size)
			p := make([]byte, size)
			for b.Loop() {
				io.ReadFull(conn, p)
			}
		})
	})
	b.Run("upload", func(b *testing.B) {
		benchWays(b, func(b *testing.B, way func(*Client)) {
			var writes *atomic.Int64
			c := start(b, func(r *request) { io.Copy(io.Discard, r.data); r.finish() }).client(b, way,
				func(c *Client) { writes = count(c) })
			conn := dial(b, c, 80)
			b.SetBytes(size)
			p := make([]byte, size)
			for b.Loop() {
				conn.Write(p)
			}
			b.ReportMetric(float64(b.N)*size/1024/float64(writes.Load()), "KiB/write")
			conn.CloseWrite()
			io.Copy(io.Discard, conn)
			conn.Close()
		})
	})
}

// countingListener accepts connections whose writes are counted.
type countingListener struct {
	net.Listener
	writes *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{conn, l.writes}, nil
}

// countedConn hides that a connection can write several pieces at once: what goes
// through a WebSocket with one writev(2) counts as two writes.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func benchForms(b *testing.B, bench func(b *testing.B, form func(*Client))) {
	b.Run("v1", func(b *testing.B) { benchWays(b, bench) })
	b.Run("stock", func(b *testing.B) {
		benchWays(b, func(b *testing.B, way func(*Client)) {
			bench(b, func(c *Client) {
				way(c)
				c.Transport = stockOnly{c.Transport}
			})
		})
	})
}

// BenchmarkNode moves data from a port through the Server to a Client, and tells how
// much of it leaves the Server with each write.
func BenchmarkNode(b *testing.B) {
	const size = 64 << 10
	benchForms(b, func(b *testing.B, form func(*Client)) {
		writes := new(atomic.Int64)
		n := newNode(b, func(n *node) { n.writes = writes })
		flood := testenv.ServeTCP(b, func(conn *net.TCPConn) { io.Copy(conn, endless{}) })
		conn := reach(b, n.client(b, form), flood)
		defer conn.Reset()
		p := make([]byte, size)
		io.ReadFull(conn, p)
		writes.Store(0)
		b.SetBytes(size)
		for b.Loop() {
			io.ReadFull(conn, p)
		}
		b.ReportMetric(float64(b.N)*size/1024/float64(writes.Load()), "KiB/write")
	})
}

// BenchmarkNodeConnect is a connection with one byte there and back.
func BenchmarkNodeConnect(b *testing.B) {
	benchForms(b, func(b *testing.B, form func(*Client)) {
		c := newNode(b).client(b, form)
		port := testenv.ServeTCP(b, testenv.Echo)
		b.ReportAllocs()
		for b.Loop() {
			conn := reach(b, c, port)
			mustWrite(b, conn, "x")
			mustRead(b, conn, "x")
			conn.CloseWrite()
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	})
}
