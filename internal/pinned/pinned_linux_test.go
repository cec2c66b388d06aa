package pinned_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/testenv"
)

func newKey(t testing.TB) pinned.Key {
	t.Helper()
	k, err := pinned.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// served is what one end of a connection comes to.
type served struct {
	conn *pinned.Conn
	err  error
}

// serve is the server's part of a handshake, on a goroutine of its own.
func serve(t testing.TB, conn net.Conn, mine pinned.Key, theirs pinned.PublicKey) <-chan served {
	done := make(chan served, 1)
	go func() {
		c, err := pinned.Server(t.Context(), conn, mine, theirs)
		done <- served{c, err}
	}()
	return done
}

func TestKnownKeys(t *testing.T) {
	testenv.NoLeaks(t)
	us, them := newKey(t), newKey(t)
	for name, expected := range map[string]pinned.PublicKey{"known": them.Public(), "any": {}} {
		near, far := testenv.TCPPair(t)
		server := serve(t, far, them, us.Public())
		client, err := pinned.Client(t.Context(), near, us, expected)
		s := <-server
		if err != nil || s.err != nil {
			t.Fatalf("%s: client %v, server %v", name, err, s.err)
		}
		if state := client.ConnectionState(); state.Version != tls.VersionTLS13 || state.DidResume {
			t.Errorf("%s: %+v", name, state)
		}
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s.conn); string(got) != "hello" || err != nil {
			t.Errorf("%s: the server got %q, %v", name, got, err)
		}
	}
}

// A stranger's handshake ends at the server, and the stranger is told so when it reads.
func TestStrangeClient(t *testing.T) {
	testenv.NoLeaks(t)
	us, them, stranger := newKey(t), newKey(t), newKey(t)
	near, far := testenv.TCPPair(t)
	server := serve(t, far, them, us.Public())
	client, err := pinned.Client(t.Context(), near, stranger, them.Public())
	if err != nil {
		t.Fatal(err) // in TLS 1.3 a client is done before it is looked at
	}
	if s := <-server; !errors.Is(s.err, pinned.ErrStranger) {
		t.Errorf("server: %v, want ErrStranger", s.err)
	}
	if _, err := client.Read(make([]byte, 1)); !pinned.Refused(err) {
		t.Errorf("the stranger reads %v, want a refusal", err)
	}
}

// Whoever took the port first does not get the client's bytes.
func TestStrangeServer(t *testing.T) {
	testenv.NoLeaks(t)
	us, them, squatter := newKey(t), newKey(t), newKey(t)
	near, far := testenv.TCPPair(t)
	server := serve(t, far, squatter, us.Public())
	if _, err := pinned.Client(t.Context(), near, us, them.Public()); !errors.Is(err, pinned.ErrStranger) {
		t.Errorf("client: %v, want ErrStranger", err)
	}
	if s := <-server; s.err == nil {
		t.Error("the squatter has a connection")
	}
}

// A server that knows no client's key lets nobody in.
func TestNobodyIsKnown(t *testing.T) {
	testenv.NoLeaks(t)
	us, them := newKey(t), newKey(t)
	near, far := testenv.TCPPair(t)
	server := serve(t, far, them, pinned.PublicKey{})
	if _, err := pinned.Client(t.Context(), near, us, them.Public()); err == nil {
		t.Error("the client has a connection")
	}
	if s := <-server; s.err == nil {
		t.Error("the server has a connection")
	}
}

// What passes everything on works, and can neither read nor change anything.
func TestInTheMiddle(t *testing.T) {
	testenv.NoLeaks(t)
	us, them := newKey(t), newKey(t)
	near, left := testenv.TCPPair(t)
	right, far := testenv.TCPPair(t)
	seen := make(chan []byte, 1) // from client to server
	flip := make(chan struct{})
	go func() { _, _ = io.Copy(struct{ io.Writer }{left}, right); _ = left.CloseWrite() }() // without kernel pipes, which Go keeps
	go func() { seen <- relay(right, left, flip) }()
	server := serve(t, far, them, us.Public())
	client, err := pinned.Client(t.Context(), near, us, them.Public())
	s := <-server
	if err != nil || s.err != nil {
		t.Fatalf("client %v, server %v", err, s.err)
	}
	secret, got := []byte("a secret of some length"), make([]byte, 23)
	if _, err := client.Write(secret); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.conn, got); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("the server got %q, %v", got, err)
	}
	close(flip)
	if _, err := client.Write(secret); err != nil {
		t.Fatal(err)
	}
	if n, err := s.conn.Read(got); n > 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("of what was changed, the server got %d bytes, %v", n, err)
	}
	if _, err := client.Read(got); !pinned.Refused(err) {
		t.Errorf("client: %v, want the server's alert", err)
	}
	near.Close()
	if bytes.Contains(<-seen, secret) {
		t.Error("the secret could be read on the way")
	}
}

// relay passes bytes on and returns them all. Once flip is closed it changes the last of each piece.
func relay(to, from net.Conn, flip <-chan struct{}) (seen []byte) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return seen
		}
		seen = append(seen, buf[:n]...)
		select {
		case <-flip:
			buf[n-1] ^= 1
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return seen
		}
	}
}

// strangers are what else may come to a server's port. Each returns when the server has closed
// the connection, or is closed itself.
var strangers = map[string]func(t *testing.T, conn net.Conn){
	"silence":     func(*testing.T, net.Conn) {},
	"plain bytes": func(_ *testing.T, conn net.Conn) { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
	"half a handshake": func(t *testing.T, conn net.Conn) {
		near, far := net.Pipe()
		defer far.Close()
		go func() { _ = tls.Client(near, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()) }()
		hello := make([]byte, 100)
		_, _ = io.ReadFull(far, hello)
		_, _ = conn.Write(hello)
	},
	"TLS 1.2": func(t *testing.T, conn net.Conn) {
		config := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
		if err := tls.Client(conn, config).HandshakeContext(t.Context()); err == nil {
			t.Error("TLS 1.2 works")
		}
	},
	"no certificate": func(t *testing.T, conn net.Conn) {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		if _, err := c.Read(make([]byte, 1)); !pinned.Refused(err) {
			t.Errorf("without a certificate: %v", err)
		}
	},
	"another kind of key": func(t *testing.T, conn net.Conn) {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ecdsaCertificate(t)}})
		if _, err := c.Read(make([]byte, 1)); !pinned.Refused(err) {
			t.Errorf("with another kind of key: %v", err)
		}
	},
}

func ecdsaCertificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	empty := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, empty, empty, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Whatever else comes to the port is refused within the time for a handshake.
func TestStrangers(t *testing.T) {
	testenv.NoLeaks(t)
	us, them := newKey(t), newKey(t)
	ends := map[string]<-chan served{}
	for name, comes := range strangers {
		near, far := testenv.TCPPair(t)
		ends[name] = serve(t, far, them, us.Public())
		comes(t, near)
	}
	for name, end := range ends {
		select {
		case s := <-end:
			if s.err == nil {
				t.Errorf("%s: let in", name)
			}
			slow := name == "silence" || name == "half a handshake"
			if errors.Is(s.err, context.DeadlineExceeded) != slow {
				t.Errorf("%s: %v", name, s.err)
			}
		case <-time.After(testenv.Patience):
			t.Errorf("%s: neither let in nor refused", name)
		}
	}
}

// A client gives up a server that says nothing when its context ends.
func TestContext(t *testing.T) {
	testenv.NoLeaks(t)
	near, _ := testenv.TCPPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("for a reason")
	cancel(why)
	if _, err := pinned.Client(ctx, near, newKey(t), newKey(t).Public()); !errors.Is(err, why) {
		t.Errorf("%v, want the context's cause", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, the connection is still open", err)
	}
}
