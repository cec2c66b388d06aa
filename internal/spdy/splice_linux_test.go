package spdy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
)

// spliceTunnel is a tunnel whose server splices from sockets.
func spliceTunnel(t *testing.T, cfg Config) (client, server *Conn) {
	t.Helper()
	a, b := transports(t)
	copier := &pipe.Copier{}
	t.Cleanup(copier.Close)
	serverCfg := cfg
	serverCfg.Server, serverCfg.Splicer = true, copier.FrameSplicer(b)
	client, server = New(a, cfg), New(b, serverCfg)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// source is a socket to splice from, and what feeds it.
func source(t *testing.T) (src syscall.RawConn, feed *net.TCPConn) {
	t.Helper()
	a, b := transports(t)
	src, err := b.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return src, a.(*net.TCPConn)
}

// spliceAll splices until that fails.
func spliceAll(s *Stream, src syscall.RawConn) (total int64, err error) {
	for {
		n, err := s.SpliceFrom(src)
		total += n
		if err != nil {
			return total, err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

// What a socket says arrives whole, within the windows and without any, while others
// write.
func TestSplice(t *testing.T) {
	for name, cfg := range map[string]Config{
		"stock":   {},
		"windows": {FlowControl: true, ReceiveBuffer: initialWindow},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := spliceTunnel(t, cfg)
			var wg sync.WaitGroup
			defer wg.Wait()
			for range 3 {
				a, b := pair(t, client, server)
				src, feed := source(t)
				want := noise(8 << 20)
				wg.Go(func() {
					feed.Write(want)
					feed.Close()
				})
				wg.Go(func() {
					b.Write([]byte("ahead"))
					if n, err := spliceAll(b, src); n != int64(len(want)) || !errors.Is(err, io.EOF) {
						t.Errorf("drew %d bytes, %v", n, err)
					}
					b.Write([]byte("behind"))
					b.CloseWrite()
				})
				wg.Go(func() {
					got, err := io.ReadAll(a)
					if err != nil || !bytes.Equal(got, append(append([]byte("ahead"), want...), "behind"...)) {
						t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want)+11)
					}
					a.Close()
				})
			}
			a, b := pair(t, client, server)
			for range 200 {
				mustWrite(t, b, "ping")
				mustRead(t, a, "ping")
			}
		})
	}
}

// Without a Splicer there is nothing to splice with.
func TestSpliceWithoutSplicer(t *testing.T) {
	client, server := tunnel(t, Config{})
	_, b := pair(t, client, server)
	src, feed := source(t)
	feed.Close()
	if n, err := b.SpliceFrom(src); n != 0 || err != nil {
		t.Errorf("drew %d bytes, %v", n, err)
	}
}

// A source that was reset has not ended.
func TestSpliceReset(t *testing.T) {
	client, server := spliceTunnel(t, Config{})
	_, b := pair(t, client, server)
	src, feed := source(t)
	feed.SetLinger(0)
	feed.Close()
	if _, err := spliceAll(b, src); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("splicing from a socket that was reset: %v", err)
	}
}

// endless feeds a source until it is closed.
func endless(t *testing.T) syscall.RawConn {
	t.Helper()
	src, feed := source(t)
	go func() {
		for p := noise(1 << 20); ; {
			if _, err := feed.Write(p); err != nil {
				return
			}
		}
	}()
	return src
}

// spliceStalled splices from an endless source into a stream whose peer reads nothing.
func spliceStalled(t *testing.T) (a, b *Stream, failed chan error) {
	t.Helper()
	client, server := spliceTunnel(t, Config{FlowControl: true, ReceiveBuffer: initialWindow})
	a, b = pair(t, client, server)
	src := endless(t)
	failed = make(chan error, 1)
	go func() {
		_, err := spliceAll(b, src)
		failed <- err
	}()
	awaitWindowFull(t, b)
	return a, b, failed
}

// Whatever ends a stream ends its SpliceFrom, and half of what there was does not look like
// the whole.
func TestSpliceEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(a, b *Stream)
		want error
	}{
		"reset by the peer": {func(a, _ *Stream) { a.Reset() }, ErrReset},
		"reset here":        {func(_, b *Stream) { b.Reset() }, net.ErrClosed},
		"closed here":       {func(_, b *Stream) { b.Close() }, net.ErrClosed},
		"tunnel closed":     {func(_, b *Stream) { b.conn.Close() }, ErrTunnel},
		"tunnel lost":       {func(a, _ *Stream) { a.conn.transport.Close() }, ErrTunnel},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, failed := spliceStalled(t)
			c.end(a, b)
			select {
			case err := <-failed:
				if !errors.Is(err, c.want) {
					t.Errorf("SpliceFrom: %v, want %v", err, c.want)
				}
			case <-time.After(testenv.Patience):
				t.Fatal("SpliceFrom goes on")
			}
			if _, err := io.Copy(io.Discard, a); err == nil {
				t.Error("the peer reads a clean end")
			}
		})
	}
}

// A deadline ends a SpliceFrom or a Write and nothing else: what comes after it goes through.
func TestSpliceDeadline(t *testing.T) {
	a, b, failed := spliceStalled(t)
	past := time.Unix(0, 0)
	b.SetWriteDeadline(past)
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("SpliceFrom: %v", err)
	}
	b.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := b.Write([]byte("too late")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write: %v", err)
	}
	b.SetWriteDeadline(time.Time{})
	go io.Copy(io.Discard, a)
	src, feed := source(t)
	feed.Write([]byte("moved"))
	feed.Close()
	if n, err := spliceAll(b, src); n != 5 || !errors.Is(err, io.EOF) {
		t.Errorf("drew %d bytes, %v", n, err)
	}
	mustWrite(t, b, "written")
	b.Close()
	a.Close()
}

// In a tunnel that nobody reads a SpliceFrom ends with its deadline, and is over with the tunnel.
func TestSpliceIntoStalledTransport(t *testing.T) {
	a, b := transports(t)
	copier := &pipe.Copier{}
	defer copier.Close()
	server := New(b, Config{Server: true, Splicer: copier.FrameSplicer(b)})
	defer server.Close()
	s, err := server.OpenStream(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	src := endless(t)
	failed := make(chan error, 1)
	go func() {
		_, err := spliceAll(s, src)
		failed <- err
	}()
	within(t, 10*time.Second, "a stalled tunnel", func() bool { return server.Stalled() > 100*time.Millisecond })
	s.SetWriteDeadline(time.Unix(0, 0))
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("SpliceFrom: %v", err)
	}
	a.Close()
	select {
	case <-server.Done():
	case <-time.After(testenv.Patience):
		t.Error("the tunnel goes on")
	}
}
