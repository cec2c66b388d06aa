package pipe_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
)

// ways are those that bytes take: spliced, through a buffer between sockets, through
// a buffer between Conns that are no sockets, between one that is a socket and
// one that is none, and from a socket to one that takes bytes from it by itself.
var ways = map[string]struct {
	maxPipes  int
	near, far func(*pipe.Copier, *net.TCPConn) pipe.Conn
}{
	"splice":     {0, asSocket, asSocket},
	"nopipes":    {-1, asSocket, asSocket},
	"plain":      {0, asPlain, asPlain},
	"mixed":      {0, asStream, asSocket},
	"spliceFrom": {0, asReceiver, asSocket},
}

func asSocket(_ *pipe.Copier, c *net.TCPConn) pipe.Conn { return c }
func asPlain(_ *pipe.Copier, c *net.TCPConn) pipe.Conn  { return plain{c} }
func asStream(_ *pipe.Copier, c *net.TCPConn) pipe.Conn { return stream{plain{c}} }

// plain hides that a Conn is a socket.
type plain struct{ conn *net.TCPConn }

func (p plain) Read(b []byte) (int, error)  { return p.conn.Read(b) }
func (p plain) Write(b []byte) (int, error) { return p.conn.Write(b) }
func (p plain) CloseWrite() error           { return p.conn.CloseWrite() }
func (p plain) Close() error                { return p.conn.Close() }
func (p plain) Reset() error                { return pipe.Reset(p.conn) }

// stream is a plain that has a buffer of its own.
type stream struct{ plain }

func (s stream) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

func (s stream) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{s}, make([]byte, 10_000))
}

// receiver is a stream that takes bytes from sockets by itself.
type receiver struct {
	stream
	splicer *pipe.FrameSplicer
	taken   *atomic.Int64 // bytes
}

func asReceiver(copier *pipe.Copier, c *net.TCPConn) pipe.Conn {
	return receiver{stream{plain{c}}, copier.FrameSplicer(c), new(atomic.Int64)}
}

func (d receiver) SpliceFrom(src syscall.RawConn) (total int64, err error) {
	for {
		n, err := d.splicer.Load(src, 100_000)
		if n == 0 {
			return total, err
		}
		if err := d.splicer.Send(nil); err != nil {
			return total, err
		}
		d.taken.Add(int64(n))
		total += int64(n)
	}
}

// result is what a Copy returned.
type result struct {
	counts pipe.Counts
	err    error
}

// proxied is a client and a server with a Copy between them.
type proxied struct {
	client, server *net.TCPConn
	done           chan result
}

func newProxied(t testing.TB, c *pipe.Copier, way string) proxied {
	t.Helper()
	client, near := testenv.TCPPair(t)
	far, server := testenv.TCPPair(t)
	p := proxied{client, server, make(chan result, 1)}
	go func() {
		counts, err := c.Copy(ways[way].near(c, near), ways[way].far(c, far))
		p.done <- result{counts, err}
	}()
	return p
}

// eachWay runs a test for each way, all at once, with leak checks.
func eachWay(t *testing.T, test func(t *testing.T, start func() proxied)) {
	testenv.NoLeaks(t)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &pipe.Copier{MaxPipes: way.maxPipes}
			t.Cleanup(c.Close)
			test(t, func() proxied { return newProxied(t, c, name) })
		})
	}
}

func (p proxied) wait(t *testing.T) result {
	t.Helper()
	select {
	case r := <-p.done:
		return r
	case <-time.After(testenv.Patience):
		t.Fatal("Copy goes on after its connections have ended")
		return result{}
	}
}

func TestConn(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			c := &pipe.Copier{MaxPipes: way.maxPipes}
			t.Cleanup(c.Close)
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				p := newProxied(t, c, name)
				return p.client, p.server, func() { _ = p.client.Close(); _ = p.server.Close() }, nil
			})
		})
	}
}

// The answer comes later than any peer's timer would let it.
func TestHalfClose(t *testing.T) {
	eachWay(t, func(t *testing.T, start func() proxied) {
		p := start()
		write(t, p.client, "request")
		must(t, p.client.CloseWrite())
		read(t, p.server, "request")
		time.Sleep(1500 * time.Millisecond)
		write(t, p.server, "answer")
		must(t, p.server.Close())
		read(t, p.client, "answer")
		if r := p.wait(t); r.err != nil || r.counts != (pipe.Counts{FromA: 7, FromB: 6}) {
			t.Errorf("Copy = %+v, %v", r.counts, r.err)
		}
	})
}

func TestServerClosesFirst(t *testing.T) {
	eachWay(t, func(t *testing.T, start func() proxied) {
		p := start()
		must(t, p.server.CloseWrite())
		read(t, p.client, "")
		write(t, p.client, "upload that goes on")
		must(t, p.client.Close())
		read(t, p.server, "upload that goes on")
		p.wait(t)
	})
}

func TestReset(t *testing.T) {
	eachWay(t, func(t *testing.T, start func() proxied) {
		p := start()
		write(t, p.server, "half an ans")
		readN(t, p.client, 11)
		must(t, pipe.Reset(p.server))
		wantReset(t, p.client)
		if r := p.wait(t); !errors.Is(r.err, syscall.ECONNRESET) {
			t.Errorf("Copy's error is %v, want ECONNRESET", r.err)
		}

		p = start()
		must(t, pipe.Reset(p.client))
		wantReset(t, p.server)
		p.wait(t)
	})
}

// Bytes that were on their way when the reset came must not end in a clean EOF.
func TestResetAmidBytes(t *testing.T) {
	eachWay(t, func(t *testing.T, start func() proxied) {
		p := start()
		go func() {
			_, _ = p.server.Write(make([]byte, 8<<20))
			_ = pipe.Reset(p.server)
		}()
		time.Sleep(50 * time.Millisecond)
		_, err := io.Copy(io.Discard, p.client)
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reading ends with %v, want ECONNRESET", err)
		}
		p.wait(t)
	})
}

// One side has said that it is done and is then reset, while the other is
// silent: nothing moves, and still everything has to go.
func TestResetAfterHalfClose(t *testing.T) {
	testenv.NoLeaks(t)
	var c pipe.Copier
	t.Cleanup(c.Close)
	p := newProxied(t, &c, "splice")
	must(t, p.client.CloseWrite())
	read(t, p.server, "")
	must(t, pipe.Reset(p.client))
	// The kernel calls a reset that follows an end of file EPIPE.
	if r := p.wait(t); !errors.Is(r.err, syscall.EPIPE) {
		t.Errorf("Copy's error is %v, want EPIPE", r.err)
	}
	// After an end of file reading shows no reset, writing does.
	if _, err := p.server.Write([]byte("answer")); !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write's error is %v, want EPIPE or ECONNRESET", err)
	}
}

// The writer is reset while its reader stalls: the copy does not read then.
func TestResetWhileStalled(t *testing.T) {
	testenv.NoLeaks(t)
	for _, way := range []string{"splice", "nopipes", "mixed", "spliceFrom"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c := pipe.Copier{MaxPipes: ways[way].maxPipes}
			t.Cleanup(c.Close)
			p := newProxied(t, &c, way)
			fill(t, p.server)
			must(t, pipe.Reset(p.server))
			if r := p.wait(t); !errors.Is(r.err, syscall.ECONNRESET) {
				t.Errorf("Copy's error is %v, want ECONNRESET", r.err)
			}
		})
	}
}

// A stall outlasts several checks of the source, and then every byte arrives.
func TestStall(t *testing.T) {
	eachWay(t, func(t *testing.T, start func() proxied) {
		stalled, other := start(), start()
		n := fill(t, stalled.server)
		if n > 32<<20 {
			t.Errorf("%d bytes went to a reader that does not read", n)
		}
		time.Sleep(1200 * time.Millisecond)
		write(t, other.client, "ping")
		readN(t, other.server, 4)

		must(t, stalled.server.CloseWrite())
		got, err := io.Copy(io.Discard, stalled.client)
		if err != nil || got != int64(n) {
			t.Errorf("read %d bytes, %v, want %d", got, err, n)
		}
		must(t, errors.Join(stalled.client.Close(), other.client.Close(), other.server.Close()))
		stalled.wait(t)
		other.wait(t)
	})
}

func TestBitForBit(t *testing.T) {
	size := int64(128 << 20)
	if testing.Short() {
		size = 64 << 20
	}
	eachWay(t, func(t *testing.T, start func() proxied) {
		p := start()
		var wg sync.WaitGroup
		for seed, ends := range [][2]*net.TCPConn{{p.client, p.server}, {p.server, p.client}} {
			wg.Go(func() { send(t, ends[0], byte(seed), size) })
			wg.Go(func() { receive(t, ends[1], byte(seed), size) })
		}
		wg.Wait()
		if r := p.wait(t); r.err != nil || r.counts != (pipe.Counts{FromA: size, FromB: size}) {
			t.Errorf("Copy = %+v, %v", r.counts, r.err)
		}
	})
}

// An idle connection holds its two sockets, and nothing else.
func TestIdleHoldsNoPipe(t *testing.T) {
	testenv.NoLeaks(t)
	var c pipe.Copier
	t.Cleanup(c.Close)
	const n = 100
	before := len(testenv.Descriptors(t))
	var all [n]proxied
	for i := range all {
		p := newProxied(t, &c, "splice")
		all[i] = p
		write(t, p.client, "x")
		readN(t, p.server, 1)
	}
	// Four sockets each, for both ends are here, and the few pipes that are kept.
	held := func() int { return len(testenv.Descriptors(t)) - before }
	testenv.Await(t, "only sockets are held, and the pipes that are kept", func() bool { return held() <= 4*n+2*16 })
	for _, p := range all {
		must(t, errors.Join(p.client.Close(), p.server.Close()))
		p.wait(t)
	}
}

// fill writes to c until nothing more fits anywhere, and returns how much did.
func fill(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	chunk := make([]byte, 1<<16)
	for {
		must(t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
		w, err := c.Write(chunk)
		n += w
		if errors.Is(err, os.ErrDeadlineExceeded) {
			must(t, c.SetWriteDeadline(time.Time{}))
			return n
		}
		must(t, err)
	}
}

func source(seed byte, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
}

func send(t *testing.T, c *net.TCPConn, seed byte, size int64) {
	if _, err := io.Copy(struct{ io.Writer }{c}, source(seed, size)); err != nil {
		t.Error("send:", err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Error("send:", err)
	}
}

func receive(t *testing.T, c *net.TCPConn, seed byte, size int64) {
	got, want := sha256.New(), sha256.New()
	if _, err := io.Copy(got, c); err != nil {
		t.Error("receive:", err)
	}
	_, _ = io.Copy(want, source(seed, size))
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("the bytes that came are not those that were sent")
	}
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

// read wants s and then the end of file.
func read(t *testing.T, r io.Reader, s string) {
	t.Helper()
	if got, err := io.ReadAll(r); err != nil || string(got) != s {
		t.Fatalf("read %q, %v, want %q", got, err, s)
	}
}

func readN(t *testing.T, r io.Reader, n int) {
	t.Helper()
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(testenv.Patience))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %d, %v, want ECONNRESET", n, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
