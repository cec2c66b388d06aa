package nonblock_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"testing"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/testenv"
)

// counted is a connection that counts its writes, and fails those after the last one allowed.
type counted struct {
	net.Conn
	writes, allowed atomic.Int64
}

var errCut = errors.New("cut")

func (c *counted) Write(p []byte) (int, error) {
	if c.writes.Add(1) > c.allowed.Load() {
		return 0, errCut
	}
	return c.Conn.Write(p)
}

// gathered is TLS over a Gatherer over a counted connection, to somebody who reads everything; the number
// of bytes that he has read in the end arrives at the channel.
func gathered(t *testing.T) (*tls.Conn, *nonblock.Gatherer, *counted, <-chan int64) {
	t.Helper()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}, InsecureSkipVerify: true}
	here, there := net.Pipe()
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, tls.Server(there, config))
		there.Close()
		read <- n
	}()
	below := &counted{Conn: here}
	below.allowed.Store(1000)
	g := &nonblock.Gatherer{Conn: below}
	secure := tls.Client(g, config)
	t.Cleanup(func() { secure.Close() })
	if err := secure.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	below.writes.Store(0)
	return secure, g, below, read
}

// The records of one large write leave together, those of small ones each by itself.
func TestGatherer(t *testing.T) {
	testenv.NoLeaks(t)
	secure, g, below, read := gathered(t)
	g.Hold()
	g.Hold()
	if _, err := secure.Write(make([]byte, 512<<10)); err != nil {
		t.Fatal(err)
	}
	if err := g.Release(); err != nil || below.writes.Load() != 0 {
		t.Errorf("%d writes before the last Release, %v", below.writes.Load(), err)
	}
	if err := g.Release(); err != nil || below.writes.Load() != 1 {
		t.Errorf("%d writes, want 1; %v", below.writes.Load(), err)
	}
	for range 2 {
		if _, err := secure.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if n := below.writes.Load(); n != 3 {
		t.Errorf("%d writes, want 3", n)
	}
	secure.Close()
	if n := <-read; n != 512<<10+2 {
		t.Errorf("%d bytes arrived", n)
	}
}

// Not more than a megabyte is held back.
func TestGathererIsBounded(t *testing.T) {
	testenv.NoLeaks(t)
	secure, g, below, read := gathered(t)
	g.Hold()
	if _, err := secure.Write(make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
	if n := below.writes.Load(); n < 2 || n > 3 {
		t.Errorf("%d writes of 3 MiB before Release, want 2 or 3", n)
	}
	if err := g.Release(); err != nil {
		t.Error(err)
	}
	secure.Close()
	if n := <-read; n != 3<<20 {
		t.Errorf("%d bytes arrived", n)
	}
}

// A write that fails is told at the Release, and by every write after it.
func TestGathererFails(t *testing.T) {
	testenv.NoLeaks(t)
	secure, g, below, _ := gathered(t)
	below.allowed.Store(0)
	g.Hold()
	if _, err := secure.Write([]byte("x")); err != nil {
		t.Errorf("while it is held back: %v", err)
	}
	if err := g.Release(); !errors.Is(err, errCut) {
		t.Errorf("release: %v", err)
	}
	if _, err := g.Write([]byte("x")); !errors.Is(err, errCut) {
		t.Errorf("write: %v", err)
	}
	if n := below.writes.Load(); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	below.Close()
}
