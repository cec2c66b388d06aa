package agent_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
	"porthole.dev/porthole/internal/tunnel"
)

// port is an agent that listens, and what its client knows.
type port struct {
	address string
	client  pinned.Key
	server  pinned.PublicKey
	stop    context.CancelFunc
	ended   <-chan struct{}
	log     *lockedLog
}

// lockedLog is a log that may be read while it is written.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newKey(t *testing.T) pinned.Key {
	t.Helper()
	k, err := pinned.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// listen starts an agent on a port of this machine, until the test ends. Options are for its other fields.
func listen(t *testing.T, options func(*agent.TLSServer)) *port {
	t.Helper()
	testenv.NoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mine := newKey(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	p := &port{l.Addr().String(), newKey(t), mine.Public(), cancel, ended, &lockedLog{}}
	s := &agent.TLSServer{
		Agent:  &agent.Agent{Version: "test", Dialer: &container.Inside{Namespace: netns.Here()}},
		Key:    mine,
		Client: p.client.Public(),
		Log:    slog.New(slog.NewTextHandler(p.log, nil)),
	}
	if options != nil {
		options(s)
	}
	go func() {
		defer close(ended)
		if err := s.Serve(ctx, l); err != nil {
			t.Error("the agent:", err)
		}
	}()
	t.Cleanup(func() { cancel(); p.awaitEnd(t) })
	return p
}

func (p *port) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(testenv.Patience):
		t.Error("the agent goes on")
	}
}

// dial connects to the port, and closes that with the test.
func (p *port) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(testenv.Patience))
	return conn
}

// secure connects with a key.
func (p *port) secure(t *testing.T, key pinned.Key) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := pinned.Client(t.Context(), p.dial(t), key, p.server)
	if err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// stream is a connection of which some bytes were read ahead.
type stream struct {
	*bufio.Reader
	net.Conn
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// tunnel opens a tunnel as the client does.
func (p *port) tunnel(t *testing.T) *tunnel.Client {
	t.Helper()
	conn, r := p.secure(t, p.client)
	greeting, err := tunnel.ReadGreeting(r)
	if err != nil {
		t.Fatal(err)
	}
	if greeting.Version != "test" || greeting.Has(tunnel.FeatureTargets) {
		t.Errorf("the agent greets with %+v", greeting)
	}
	if _, err := conn.Write(tunnel.Greeting{}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Time{})
	client := tunnel.NewClient(stream{r, conn}, tunnel.ClientConfig{})
	t.Cleanup(func() { client.Close() })
	return client
}

// echo sends a text to where it is echoed.
func echo(client *tunnel.Client, to target.Address) error {
	conn, err := client.Dial(to)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer time.AfterFunc(testenv.Patience, func() { conn.Close() }).Stop()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return err
	}
	if to.Network != target.UDP {
		if err := conn.CloseWrite(); err != nil {
			return err
		}
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != "hello" {
		return errors.New("the echo is " + string(got))
	}
	return nil
}

// What the agent reaches itself is reached through it.
func TestTLSServer(t *testing.T) {
	p := listen(t, nil)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	path := t.TempDir() + "/a.sock"
	testenv.Serve(t, "unix", path, testenv.Echo)
	client := p.tunnel(t)
	for name, to := range map[string]target.Address{
		"IPv4":   {Port: testenv.ServeTCP(t, testenv.Echo)},
		"IPv6":   {Port: testenv.Port(testenv.Serve(t, "tcp", "[::1]:0", testenv.Echo))},
		"host":   {Host: "localhost", Port: testenv.ServeTCP(t, testenv.Echo)},
		"UDP":    {Network: target.UDP, Port: testenv.EchoUDP(udp)},
		"socket": {Network: target.Unix, Path: path},
	} {
		if err := echo(client, to); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := echo(client, target.Address{Port: testenv.FreePort(t)}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v", err)
	}
	if err := echo(p.tunnel(t), target.Address{Network: target.UDP, Port: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()}); err != nil {
		t.Errorf("a second tunnel: %v", err)
	}
	if _, err := client.OpenTarget(t.Context(), "pid://1", ""); !errors.Is(err, tunnel.ErrUnsupported) {
		t.Errorf("a named target: %v, want ErrUnsupported", err)
	}
}

// Strangers get nothing, keep nobody out and are told from the client.
func TestTLSServerStrangers(t *testing.T) {
	p := listen(t, nil)
	echo1 := testenv.ServeTCP(t, testenv.Echo)
	first := p.tunnel(t)
	var silent []net.Conn
	for range 200 {
		silent = append(silent, p.dial(t))
	}
	if err := echo(p.tunnel(t), target.Address{Port: echo1}); err != nil {
		t.Errorf("beside strangers that say nothing: %v", err)
	}
	_, r := p.secure(t, newKey(t))
	if _, err := r.ReadByte(); !pinned.Refused(err) {
		t.Errorf("a stranger with a key of its own reads %v, want a refusal", err)
	}
	plain := p.dial(t)
	_, _ = io.WriteString(plain, "GET / HTTP/1.1\r\n\r\n")
	if got, _ := io.ReadAll(plain); strings.Contains(string(got), tunnel.Protocol) {
		t.Errorf("a stranger without TLS reads %q", got)
	}
	for _, conn := range silent {
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a silent stranger reads %v", err)
		}
	}
	if err := echo(first, target.Address{Port: echo1}); err != nil {
		t.Errorf("the first tunnel, after the strangers: %v", err)
	}
	if lines := strings.Count(p.log.String(), "a stranger was refused"); lines == 0 || lines > 5 {
		t.Errorf("%d lines of the log are about 202 strangers:\n%s", lines, p.log)
	}
}

// A client that proves its key and then says nothing is given up.
func TestTLSServerSilentClient(t *testing.T) {
	p := listen(t, nil)
	_, r := p.secure(t, p.client)
	if _, err := tunnel.ReadGreeting(r); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want the end of the connection", err)
	}
}

// There is a limit to the client's tunnels, and one more may come when one has gone.
func TestTLSServerTunnels(t *testing.T) {
	p := listen(t, nil)
	var tunnels []*tunnel.Client
	for range 64 {
		tunnels = append(tunnels, p.tunnel(t))
	}
	_, r := p.secure(t, p.client)
	if _, err := tunnel.ReadGreeting(r); !errors.Is(err, io.EOF) {
		t.Errorf("one tunnel too many: %v, want the end", err)
	}
	tunnels[0].Close()
	testenv.Await(t, "there is room for one more", func() bool {
		_, r := p.secure(t, p.client)
		_, err := tunnel.ReadGreeting(r)
		return err == nil
	})
}

// An agent with ExitAfter ends when nobody came, or the last one has gone, and not before. Strangers
// are nobody.
func TestTLSServerExit(t *testing.T) {
	const soon = 2 * time.Second // enough for a client to come
	exiting := func(s *agent.TLSServer) { s.ExitAfter = soon }
	nobody := listen(t, exiting)
	nobody.awaitEnd(t)

	p := listen(t, exiting)
	client := p.tunnel(t)
	time.Sleep(soon + soon/2) // what must not happen cannot be waited for
	if err := client.Err(); err != nil {
		t.Fatalf("it has ended with a client: %v", err)
	}
	client.Close()
	p.dial(t)
	p.awaitEnd(t)
}

// The end does not wait for anybody.
func TestTLSServerEnds(t *testing.T) {
	p := listen(t, nil)
	silent, client := p.dial(t), p.tunnel(t)
	waiting, err := client.Dial(target.Address{Port: testenv.ServeTCP(t, testenv.Echo)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(waiting, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := waiting.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p.awaitEnd(t)
	if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrTunnel) {
		t.Errorf("the connection reads %v, want ErrTunnel", err)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the stranger reads %v", err)
	}
}
