package spdy

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m)
}

// transports returns the two ends of a TCP connection over loopback.
func transports(t testing.TB) (client, server net.Conn) {
	t.Helper()
	dialed, accepted := testenv.TCPPair(t)
	return dialed, accepted
}

// tunnel returns the two ends of a tunnel over loopback TCP; cfg.Server is set here.
func tunnel(t testing.TB, cfg Config) (client, server *Conn) {
	t.Helper()
	a, b := transports(t)
	serverCfg := cfg
	serverCfg.Server = true
	client, server = New(a, cfg), New(b, serverCfg)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// pair opens a stream and accepts it at the other end.
func pair(t testing.TB, client, server *Conn) (a, b *Stream) {
	t.Helper()
	a, err := client.OpenStream(Header{"Streamtype": {"data"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	return a, accept(t, server)
}

func accept(t testing.TB, c *Conn) *Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	s, err := c.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// within fails the test unless ok turns true in time: d where the machine has nothing else to do.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	d = max(d, testenv.Patience)
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("after %v still not: %s", d, what)
}

// modes are the two ways a tunnel of our own ends can run.
func modes(t *testing.T, test func(t *testing.T, cfg Config)) {
	t.Run("stock", func(t *testing.T) { test(t, Config{}) })
	t.Run("flowcontrol", func(t *testing.T) { test(t, Config{FlowControl: true}) })
}

// mustWrite and mustRead fail the test on error.
func mustWrite(t testing.TB, w io.Writer, p string) {
	t.Helper()
	if _, err := io.WriteString(w, p); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}
