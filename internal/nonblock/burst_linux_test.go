package nonblock

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"
)

// burstPair is a burstConn and what is at its other end.
func burstPair(t *testing.T) (near *burstConn, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn = Burst(conn)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); _ = accepted.Close() })
	return conn.(*burstConn), accepted.(*net.TCPConn)
}

// What comes in bursts and in drops is whole, whatever the reader's pieces are.
func TestBurst(t *testing.T) {
	near, far := burstPair(t)
	want := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
	go func() {
		for rest, n := want, 1; len(rest) > 0; n = n*3%200_000 + 1 {
			n = min(n, len(rest))
			_, _ = far.Write(rest[:n])
			rest = rest[n:]
		}
		_ = far.CloseWrite()
	}()
	got, err := io.ReadAll(struct{ io.Reader }{near})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v, want the %d that were sent", len(got), err, len(want))
	}
	if near.buf != nil {
		t.Error("the buffer is still held after the end")
	}
}

// A reset in the middle of a burst is one.
func TestBurstReset(t *testing.T) {
	near, far := burstPair(t)
	if _, err := far.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(near, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	_ = far.SetLinger(0)
	_ = far.Close()
	if n, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, %v, want ECONNRESET", n, err)
	}
}

// What comes behind a burst comes, be it little.
func TestBurstRemainder(t *testing.T) {
	near, far := burstPair(t)
	_ = near.SetReadDeadline(time.Now().Add(time.Minute))
	for range 20 {
		if _, err := far.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(near, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(3*burstRest, func() { _, _ = far.Write([]byte("!")) }) // while near waits for much
		if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
			t.Fatalf("the byte behind the burst: %v", err)
		}
		late.Stop()
	}
}
