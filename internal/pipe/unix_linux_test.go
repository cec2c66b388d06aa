package pipe_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/testenv"
)

// halfCloser is a socket of TCP or a Unix socket.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// unixPair are the two ends of a Unix connection.
func unixPair(t testing.TB) (a, b halfCloser) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]halfCloser
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func tcpPair(t testing.TB) (a, b halfCloser) {
	t.Helper()
	return testenv.TCPPair(t)
}

// eachUnixWay runs a test for each way that begins or ends at a Unix socket. start returns the
// client, the server and what Copy returns.
func eachUnixWay(t *testing.T, test func(t *testing.T, start func() (client, server halfCloser, done chan result))) {
	for name, way := range map[string]struct {
		maxPipes  int
		near, far func(testing.TB) (a, b halfCloser)
		wrap      func(pipe.Conn) pipe.Conn // the far one
	}{
		"unix to tcp":                   {0, unixPair, tcpPair, nil},
		"tcp to unix":                   {0, tcpPair, unixPair, nil},
		"unix to unix":                  {0, unixPair, unixPair, nil},
		"unix to tcp, no pipes":         {-1, unixPair, tcpPair, nil},
		"tcp to unix, no pipes":         {-1, tcpPair, unixPair, nil},
		"unix to what is no socket":     {0, unixPair, unixPair, func(c pipe.Conn) pipe.Conn { return hidden{c} }},
		"what is no socket, no pipes":   {-1, unixPair, tcpPair, func(c pipe.Conn) pipe.Conn { return hidden{c} }},
		"what is no socket from a unix": {0, tcpPair, unixPair, func(c pipe.Conn) pipe.Conn { return hidden{c} }},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.NoLeaks(t)
			c := &pipe.Copier{MaxPipes: way.maxPipes}
			t.Cleanup(c.Close)
			test(t, func() (halfCloser, halfCloser, chan result) {
				client, near := way.near(t)
				far, server := way.far(t)
				var farConn pipe.Conn = far
				if way.wrap != nil {
					farConn = way.wrap(far)
				}
				done := make(chan result, 1)
				go func() {
					counts, err := c.Copy(near, farConn)
					done <- result{counts, err}
				}()
				return client, server, done
			})
		})
	}
}

// hidden hides that a Conn is a socket.
type hidden struct{ pipe.Conn }

func (h hidden) Reset() error { return pipe.Reset(h.Conn) }

func TestUnixConn(t *testing.T) {
	eachUnixWay(t, func(t *testing.T, start func() (client, server halfCloser, done chan result)) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			client, server, done := start()
			return client, server, func() { client.Close(); server.Close(); <-done }, nil
		})
	})
}

// Who closes both ways at once has sent everything, and no reset follows: a Unix socket hangs up
// as soon as its peer is closed.
func TestUnixCloses(t *testing.T) {
	const size = 4 << 20
	eachUnixWay(t, func(t *testing.T, start func() (client, server halfCloser, done chan result)) {
		for _, fromServer := range []bool{false, true} {
			from, to, done := start()
			if fromServer {
				from, to = to, from
			}
			go func() {
				_, _ = from.Write(make([]byte, size))
				from.Close()
			}()
			began := time.Now()
			if n, err := io.Copy(io.Discard, to); n != size || err != nil {
				t.Errorf("after %v: %d bytes of %d, %v", time.Since(began), n, size, err)
			}
			must(t, to.Close())
			if r := (proxied{done: done}).wait(t); r.err != nil {
				t.Errorf("Copy's error is %v", r.err)
			}
		}
	})
}

// The answer comes after the end of the request.
func TestUnixHalfClose(t *testing.T) {
	eachUnixWay(t, func(t *testing.T, start func() (client, server halfCloser, done chan result)) {
		client, server, done := start()
		if _, err := io.WriteString(client, "request"); err != nil {
			t.Fatal(err)
		}
		must(t, client.CloseWrite())
		if got, err := io.ReadAll(server); string(got) != "request" || err != nil {
			t.Errorf("request %q, %v", got, err)
		}
		if _, err := io.WriteString(server, "answer"); err != nil {
			t.Fatal(err)
		}
		must(t, server.Close())
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("answer %q, %v", got, err)
		}
		if r := (proxied{done: done}).wait(t); r.err != nil || r.counts != (pipe.Counts{FromA: 7, FromB: 6}) {
			t.Errorf("Copy = %+v, %v", r.counts, r.err)
		}
	})
}

// Who closes without having read what was sent has lost it, and the sender is told.
func TestUnixLoss(t *testing.T) {
	eachUnixWay(t, func(t *testing.T, start func() (client, server halfCloser, done chan result)) {
		client, server, done := start()
		if _, err := io.WriteString(client, "request"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 3)); err != nil { // and not the rest
			t.Fatal(err)
		}
		must(t, server.Close())
		_, err := io.WriteString(client, "more")
		for deadline := time.Now().Add(testenv.Patience); err == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			_, err = io.WriteString(client, "more")
		}
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("writing ends with %v", err)
		}
		if r := (proxied{done: done}).wait(t); r.err == nil {
			t.Error("Copy tells of no loss")
		}
	})
}
