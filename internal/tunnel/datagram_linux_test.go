package tunnel

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// udpDialer dials UDP ports of this host.
type udpDialer struct{}

type udpConn struct{ *net.UDPConn }

func (udpConn) CloseWrite() error { return nil }

func (udpDialer) Dial(_ context.Context, to target.Address) (pipe.Conn, error) {
	c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(to.Port)})
	return udpConn{c}, err
}

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	l, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dialUDP(t *testing.T, c *Client, port int) *DatagramConn {
	t.Helper()
	conn, err := c.Dial(target.Address{Network: target.UDP, Port: uint16(port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.(*DatagramConn).SetReadDeadline(time.Now().Add(testenv.Patience))
	return conn.(*DatagramConn)
}

// Boundaries are kept, whatever the size.
func TestDatagrams(t *testing.T) {
	testenv.NoLeaks(t)
	port := testenv.EchoUDP(listenUDP(t))
	c, _ := open(t, ServerConfig{Proxy: Proxy{Dialer: udpDialer{}}}, ClientConfig{})
	conn := dialUDP(t, c, int(port))
	buf := make([]byte, 64<<10)
	for _, size := range []int{1, 0, 65507, 1400, 3} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if n, err := conn.Write(sent); n != size || err != nil {
			t.Fatalf("sent %d of %d bytes, %v", n, size, err)
		}
		if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("sent %d bytes, got %d, %v", size, n, err)
		}
	}
	// What the reader has no room for is lost, and the next datagram is not.
	for _, text := range []string{"abcdef", "next"} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"abc", "nex"} {
		if n, err := conn.Read(buf[:3]); err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v, want %q", buf[:n], err, want)
		}
	}
	if _, err := conn.Write(make([]byte, 65535)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("too many bytes: %v, want EMSGSIZE", err)
	}
}

// A refusal reaches the client, and the flow lives on.
func TestDatagramsRefused(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Proxy: Proxy{Dialer: udpDialer{}}}, ClientConfig{})
	conn := dialUDP(t, c, int(testenv.FreePort(t))) // of TCP, and most likely of UDP
	for range 3 {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("nobody listens: %v, want ECONNREFUSED", err)
		}
	}
}

// The vectors of docs/protocol.md.
func TestDatagramVectors(t *testing.T) {
	a, b := streams(t)
	sent := datagrams{a}
	for _, text := range []string{"hi", ""} {
		if _, err := sent.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	sent.Refuse()
	a.CloseWrite()
	if got, err := io.ReadAll(b); err != nil || hex.EncodeToString(got) != "00026869"+"0000"+"ffff" {
		t.Errorf("got %x, %v", got, err)
	}
}

// The reader is robust against any bytes, and never takes half a datagram for a whole one.
func FuzzReadDatagrams(f *testing.F) {
	f.Add([]byte("\x00\x02hi\x00\x00\xff\xff\x00\x05half"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, b := streams(t)
		go func() { _, _ = a.Write(text); a.CloseWrite() }()
		var again []byte
		buf := make([]byte, nonblock.MaxDatagram)
		for {
			n, err := datagrams{b}.Read(buf)
			switch {
			case err == nil:
				again = append(append(again, byte(n>>8), byte(n)), buf[:n]...)
				continue
			case errors.Is(err, syscall.ECONNREFUSED):
				again = append(again, 0xff, 0xff)
				continue
			case err == io.EOF && !bytes.Equal(again, text), err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF): //nolint:errorlint // itself
				t.Fatalf("%x is read as %x, %v", text, again, err)
			}
			return
		}
	})
}

// streams are the ends of a stream.
func streams(t testing.TB) (a, b *spdy.Stream) {
	t.Helper()
	dialed, accepted := testenv.TCPPair(t)
	client, server := spdy.New(dialed, spdy.Config{FlowControl: true}), spdy.New(accepted, spdy.Config{FlowControl: true, Server: true})
	t.Cleanup(func() { client.Close(); server.Close() })
	a, err := client.OpenStream(spdy.Header{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = server.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a, b
}
