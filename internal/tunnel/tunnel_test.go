package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

var _ net.Conn = (*Conn)(nil)

func TestMain(m *testing.M) {
	testenv.Main(m)
}

// loopback reaches ports of this machine, or fails.
type loopback struct {
	err error
}

func (l loopback) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	if l.err != nil {
		return nil, l.err
	}
	port, err := to.TCPOnly()
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// open returns the client's end of a tunnel over loopback TCP, and the server's transport.
func open(t *testing.T, cfg ServerConfig, client ClientConfig) (*Client, net.Conn) {
	t.Helper()
	a, b := testenv.TCPPair(t)
	cfg.Copier = &pipe.Copier{}
	s, c := NewServer(b, cfg), NewClient(a, client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(context.Background())
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
		cfg.Copier.Close()
	})
	return c, b
}

func openTo(t *testing.T, dialer loopback) (*Client, net.Conn) {
	t.Helper()
	return open(t, ServerConfig{Proxy: Proxy{Dialer: dialer}}, ClientConfig{})
}

func dial(t *testing.T, c *Client, port uint16) *Conn {
	t.Helper()
	conn, err := c.Dial(target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*Conn)
}

// exchange sends bytes through a new connection and wants them back.
func exchange(t *testing.T, c *Client, port uint16, size int) {
	t.Helper()
	conn := dial(t, c, port)
	defer conn.Close()
	go func() {
		conn.Write(make([]byte, size))
		conn.CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, conn); err != nil || n != int64(size) {
		t.Errorf("%d of %d bytes came back, %v", n, size, err)
	}
}

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		peers := make(chan net.Conn, 1)
		done := make(chan struct{})
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			peers <- conn
			<-done
		})
		c, _ := openTo(t, loopback{})
		return dial(t, c, port), <-peers, func() { close(done); c.Close() }, nil
	})
}

// The owner of a tunnel is told of each connection's end once, and of a sandbox that is gone
// before anybody else.
func TestOwnerIsTold(t *testing.T) {
	var closed, gone atomic.Int32
	c, _ := open(t, ServerConfig{Proxy: Proxy{Dialer: loopback{ErrNoSandbox}}}, ClientConfig{
		ConnClosed:  func() { closed.Add(1) },
		SandboxGone: func(opened time.Time) { gone.Add(1) },
	})
	conn := dial(t, c, 80)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, ErrNoSandbox) || gone.Load() != 1 {
		t.Errorf("read: %v; told %d times", err, gone.Load())
	}
	conn.Reset()
	conn.Close()
	if closed.Load() != 1 {
		t.Errorf("told %d times of the connection's end", closed.Load())
	}
	testenv.Await(t, "the server ends the tunnel", func() bool { return c.Err() != nil })
}

// An end of file waits for nothing, whichever side it comes from first.
func TestEndIsAtOnce(t *testing.T) {
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "enough")
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
	c, _ := openTo(t, loopback{})
	conn := dial(t, c, port)
	defer conn.Close()
	began := time.Now()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "enough" {
		t.Fatalf("read %q, %v", got, err)
	}
	if took := time.Since(began); took >= 10*time.Second {
		t.Errorf("the end took %v", took)
	}
}

// What a Dialer's error wraps is what the client's error is.
func TestReasons(t *testing.T) {
	causes := map[Reason]error{
		ReasonRefused:     fmt.Errorf("dial: %w", syscall.ECONNREFUSED),
		ReasonReset:       fmt.Errorf("dial: %w", syscall.ECONNRESET),
		ReasonDenied:      fmt.Errorf("port 81: %w (--deny-ports)", ErrDenied),
		ReasonNoSandbox:   fmt.Errorf("enter: %w", ErrNoSandbox),
		ReasonTimeout:     fmt.Errorf("dial: %w", context.DeadlineExceeded),
		ReasonUnsupported: fmt.Errorf("dial: %w", ErrUnsupported),
		ReasonNoHost:      &net.DNSError{Err: "no such host", UnwrapErr: target.ErrNoHost},
		ReasonNoLookup:    &net.DNSError{Err: "no answer", UnwrapErr: target.ErrLookup, IsTimeout: true},
		ReasonUnreachable: fmt.Errorf("dial: %w", syscall.ENETUNREACH),
		ReasonFailed:      errors.New("out of luck " + strings.Repeat("é", MaxText)),
	}
	describe := func(to target.Address, err error) string { return fmt.Sprintf("error forwarding port %s: %v", to, err) }
	for reason, cause := range causes {
		t.Run(string(reason), func(t *testing.T) {
			c, _ := open(t, ServerConfig{Proxy: Proxy{Dialer: loopback{cause}, Describe: describe}}, ClientConfig{})
			conn := dial(t, c, 81)
			defer conn.Close()
			_, err := io.ReadAll(conn)
			var failed *PortError
			want := ClipText("error forwarding port 81: " + cause.Error())
			if !errors.As(err, &failed) || failed.Reason != reason || failed.Text != want || failed.To != target.TCPPort(81) {
				t.Errorf("read: %.200v", err)
			}
			for _, is := range append(reason.errors(), err) {
				if !errors.Is(err, is) {
					t.Errorf("error is not %v", is)
				}
			}
			if errors.Is(err, os.ErrNotExist) {
				t.Error("error is everything")
			}
			if _, err := conn.Write([]byte("x")); !errors.As(err, &failed) {
				t.Errorf("write: %v", err)
			}
		})
	}
}

// Who may not do something is told so, whoever forbids it.
func TestNotPermitted(t *testing.T) {
	for _, err := range []error{syscall.EACCES, syscall.EPERM, os.ErrPermission} {
		if got := ReasonOf(fmt.Errorf("connect: %w", err)); got != ReasonDenied {
			t.Errorf("%v is %s", err, got)
		}
	}
}

// A stream that asks for what there is not is told so, and harms no other.
func TestUnsupported(t *testing.T) {
	c, _ := openTo(t, loopback{})
	port := testenv.ServeTCP(t, testenv.Echo)
	exchange(t, c, port, 10)
	for _, header := range []spdy.Header{
		{},
		{"network": {"udp"}, "port": {"53"}},
		{"network": {"unix"}, "path": {"/run/x.sock"}},
		{"network": {"unix"}},
		{"network": {"tcp"}, "port": {"80"}, "host": {"db"}},
		{"network": {strings.Repeat("x", 10_000)}},
		{"network": {"tcp"}},
		{"network": {"tcp"}, "port": {"0"}},
		{"network": {"tcp"}, "port": {"65536"}},
		{"network": {"tcp"}, "port": {"http"}},
	} {
		s, err := c.OpenStream(header, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, spdy.ErrReset) {
			t.Errorf("%.50v: %v", header, err)
		}
		if got := s.LateHeaders().Get("reason"); got != "unsupported" {
			t.Errorf("%.50v: %q", header, got)
		}
	}
	exchange(t, c, port, 10)
}

// The tunnel under it breaks: no end of file.
func TestTunnelBreaks(t *testing.T) {
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
		io.WriteString(conn, "half an ")
		io.Copy(io.Discard, conn)
	})
	c, transport := openTo(t, loopback{})
	conn := dial(t, c, port)
	defer conn.Close()
	got := make([]byte, 8)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "half an " {
		t.Fatalf("read %q, %v", got, err)
	}
	transport.Close()
	if _, err := io.ReadAll(conn); !errors.Is(err, ErrTunnel) || errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, ErrTunnel) {
		t.Errorf("write: %v", err)
	}
}

// Streams that are opened and reset at once are work for a while, of which there is
// only so much.
func TestRapidReset(t *testing.T) {
	dialer := stuck{new(atomic.Int32), make(chan struct{})}
	c, _ := open(t, ServerConfig{Proxy: Proxy{Dialer: dialer}}, ClientConfig{})
	t.Cleanup(func() { close(dialer.release) })
	for range 1 + 3*maxConns {
		dial(t, c, 80).Reset()
	}
	last := dial(t, c, 80)
	defer last.Close()
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
	if got := dialer.dials.Load(); got > maxConns {
		t.Errorf("%d dials at once", got)
	}
}

// stuck dials until it is released, whatever ends before.
type stuck struct {
	dials   *atomic.Int32
	release chan struct{}
}

func (s stuck) Dial(context.Context, target.Address) (pipe.Conn, error) {
	s.dials.Add(1)
	<-s.release
	return nil, errors.New("released")
}

// A tunnel that nobody uses ends, and so does one whose sandbox is gone, with its last
// connection.
func TestServerEnds(t *testing.T) {
	sandbox, end := context.WithCancel(t.Context())
	defer end()
	port := testenv.ServeTCP(t, testenv.Echo)
	c, _ := open(t, ServerConfig{Proxy: Proxy{Dialer: loopback{}}, Sandbox: sandbox}, ClientConfig{})
	conn := dial(t, c, port)
	for _, text := range []string{"before", "after"} {
		io.WriteString(conn, text)
		if _, err := io.ReadFull(conn, make([]byte, len(text))); err != nil {
			t.Errorf("%s the sandbox has ended: %v", text, err)
		}
		end()
	}
	conn.Close()
	testenv.Await(t, "the tunnel ends", func() bool { return c.Err() != nil })

	c, _ = open(t, ServerConfig{Proxy: Proxy{Dialer: loopback{}}, IdleTime: 50 * time.Millisecond}, ClientConfig{})
	testenv.Await(t, "an idle tunnel ends", func() bool { return c.Err() != nil })
}
