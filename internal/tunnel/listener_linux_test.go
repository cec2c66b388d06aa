package tunnel

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func anyPort(network target.Network) target.Endpoint {
	return target.Endpoint{Network: network, AddrPort: netip.AddrPortFrom(loopback4, 0)}
}

// listenThere has the far end listen at any port of 127.0.0.1.
func listenThere(t *testing.T, c *Client, network target.Network) *route.Listener {
	t.Helper()
	l, err := c.Listen(t.Context(), anyPort(network), NewSession())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connected returns both ends of a connection that was made to a listener at the far end.
func connected(t *testing.T, l *route.Listener) (there *net.TCPConn, here *Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", l.Local.AddrPort.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted, err := l.Streams.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*Conn)
}

func TestListenerConn(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l := listenThere(t, c, target.TCP)
		there, here := connected(t, l)
		return here, there, func() { there.Close(); here.Close(); l.Close() }, nil
	})
}

// Each direction ends by itself, and who has connected is told.
func TestListenerHalfClose(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	there, here := connected(t, listenThere(t, c, target.TCP))
	if here.RemoteAddr().String() != there.LocalAddr().String() {
		t.Errorf("it comes from %v, and not from %v", here.RemoteAddr(), there.LocalAddr())
	}
	io.WriteString(there, "question")
	there.CloseWrite()
	if got, err := io.ReadAll(here); err != nil || string(got) != "question" {
		t.Errorf("read %q here, %v", got, err)
	}
	io.WriteString(here, "answer")
	here.CloseWrite()
	if got, err := io.ReadAll(there); err != nil || string(got) != "answer" {
		t.Errorf("read %q there, %v", got, err)
	}
}

// A reset of one side is one of the other.
func TestListenerReset(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	l := listenThere(t, c, target.TCP)
	there, here := connected(t, l)
	_ = here.Reset()
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset here: %v there", err)
	}
	there, here = connected(t, l)
	_ = pipe.Reset(there)
	var failed *PortError
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, ErrReset) || errors.As(err, &failed) {
		t.Errorf("reset there: %v here", err)
	}
}

// A connection that is not read holds up nobody else.
func TestListenerStall(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	l := listenThere(t, c, target.TCP)
	stalled, _ := connected(t, l)
	_ = stalled.SetWriteDeadline(time.Now().Add(time.Second))
	for err := error(nil); err == nil; {
		_, err = stalled.Write(make([]byte, 64<<10))
	}
	there, here := connected(t, l)
	go func() { io.Copy(here, here); here.CloseWrite() }()
	const size = 4 << 20
	go func() { there.Write(make([]byte, size)); there.CloseWrite() }()
	if n, err := io.Copy(io.Discard, there); n != size || err != nil {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

// awaitRefusal waits until nobody listens on an address.
func awaitRefusal(t *testing.T, at target.Endpoint) {
	t.Helper()
	testenv.Await(t, "nobody listens on "+at.String(), func() bool {
		conn, err := net.Dial("tcp", at.AddrPort.String())
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// When the client closes a listener nobody listens there, and its connections live on. When the tunnel
// ends they are reset, and the listener is gone too.
func TestListenerEnds(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	first, second := listenThere(t, c, target.TCP), listenThere(t, c, target.TCP)
	there, here := connected(t, first)
	first.Close()
	awaitRefusal(t, first.Local)
	if _, err := first.Streams.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	io.WriteString(there, "x")
	if _, err := io.ReadFull(here, make([]byte, 1)); err != nil {
		t.Errorf("read: %v", err)
	}
	c.Close()
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after the tunnel's end: %v", err)
	}
	awaitRefusal(t, second.Local)
	if _, err := second.Streams.Accept(); !errors.Is(err, ErrTunnel) {
		t.Errorf("accept after the tunnel's end: %v", err)
	}
}

// What cannot be listened on is told by its reason.
func TestListenFails(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	taken := listenThere(t, c, target.TCP)
	for name, test := range map[string]struct {
		at   target.Endpoint
		want error
	}{
		"in use":     {taken.Local, syscall.EADDRINUSE},
		"no address": {target.Endpoint{AddrPort: netip.MustParseAddrPort("203.0.113.77:80")}, syscall.EADDRNOTAVAIL},
	} {
		l, err := c.Listen(t.Context(), test.at, NewSession())
		var failed *PortError
		if !errors.Is(err, test.want) || !errors.As(err, &failed) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	deaf, _ := open(t, ServerConfig{}, ClientConfig{})
	if l, err := deaf.Listen(t.Context(), anyPort(target.TCP), ""); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a server that does not listen: %v, %v", l, err)
	}
}

// There are only so many listeners, and one that is closed makes room.
func TestListenersAreBounded(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	var all []*route.Listener
	for range maxListeners {
		all = append(all, listenThere(t, c, target.TCP))
	}
	if _, err := c.Listen(t.Context(), anyPort(target.TCP), ""); err == nil {
		t.Error("one more is listened on")
	}
	all[0].Close()
	testenv.Await(t, "there is room", func() bool {
		l, err := c.Listen(t.Context(), anyPort(target.TCP), "")
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

// A later tunnel of the same session takes over its listener, and no other one does. What was open in the
// earlier tunnel is reset.
func TestTakeOver(t *testing.T) {
	testenv.NoLeaks(t)
	listeners, session := &Listeners{}, NewSession()
	cfg := ServerConfig{Bind: forward.Bind, Listeners: listeners}
	first, _ := open(t, cfg, ClientConfig{})
	second, _ := open(t, cfg, ClientConfig{})
	l, err := first.Listen(t.Context(), anyPort(target.TCP), session)
	if err != nil {
		t.Fatal(err)
	}
	there, _ := connected(t, l)
	for _, other := range []string{"", NewSession(), session[1:], strings.ToLower(session)} {
		if _, err := second.Listen(t.Context(), l.Local, other); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("another session: %v", err)
		}
	}
	again, err := second.Listen(t.Context(), l.Local, session)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Streams.Accept(); err == nil {
		t.Error("the earlier tunnel still listens")
	}
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read from the earlier tunnel: %v", err)
	}
	connected(t, again)
}

// A session that has closed a listener and listens again, or at another sandbox, leaves the connections of the
// first one open.
func TestTakeOverLeaves(t *testing.T) {
	testenv.NoLeaks(t)
	pods := []*testenv.Pod{testenv.NewPod(t), testenv.NewPod(t)}
	sandbox, end := context.WithCancel(t.Context())
	defer end()
	listeners, session := &Listeners{}, NewSession()
	at := func(i int) ServerConfig {
		return ServerConfig{Bind: pods[i].NS.Bind, Listeners: listeners, Sandbox: []context.Context{sandbox, t.Context()}[i]}
	}
	first, _ := open(t, at(0), ClientConfig{})
	second, _ := open(t, at(0), ClientConfig{})
	elsewhere, _ := open(t, at(1), ClientConfig{})
	address := target.Endpoint{AddrPort: netip.AddrPortFrom(loopback4, 8080)}
	listen := func(c *Client) *route.Listener {
		t.Helper()
		l, err := c.Listen(t.Context(), address, session)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	talk := func(what string, there pipe.Conn, here net.Conn) {
		t.Helper()
		there.Write([]byte("x"))
		if _, err := io.ReadFull(here, make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	l := listen(first)
	there, err := pods[0].NS.Dial(t.Context(), target.TCPPort(8080))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	here, err := l.Streams.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	defer listen(elsewhere).Close()
	talk("another sandbox is listened at", there, here)
	l.Close()
	testenv.Await(t, "nobody listens", func() bool {
		conn, err := pods[0].NS.Dial(t.Context(), target.TCPPort(8080))
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	defer listen(second).Close()
	talk("it is listened again", there, here)
}

// A tunnel that has a listener is not idle, and one whose sandbox is gone loses its listeners.
func TestListenerKeepsTunnel(t *testing.T) {
	testenv.NoLeaks(t)
	sandbox, end := context.WithCancel(t.Context())
	defer end()
	var l *route.Listener
	testenv.Await(t, "it listens before its tunnel has been idle for too long", func() bool {
		c, _ := open(t, ServerConfig{Bind: forward.Bind, IdleTime: 50 * time.Millisecond, Sandbox: sandbox}, ClientConfig{})
		var err error
		l, err = c.Listen(t.Context(), anyPort(target.TCP), NewSession())
		return err == nil
	})
	t.Cleanup(func() { l.Close() })
	there, here := connected(t, l)
	there.Close()
	here.Close()
	time.Sleep(300 * time.Millisecond) // longer than it may be idle: there is nothing to wait for
	connected(t, l)
	end()
	if _, err := l.Streams.Accept(); !errors.Is(err, ErrNoSandbox) {
		t.Errorf("accept without a sandbox: %v", err)
	}
	awaitRefusal(t, l.Local)
}

// The client resets what comes for no listener of its own, and no connection comes of it.
func TestUnaskedStreams(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := testenv.TCPPair(t)
	c := NewClient(a, ClientConfig{})
	defer c.Close()
	server := spdy.New(b, spdy.Config{Server: true, FlowControl: true})
	defer server.Close()
	go func() {
		for {
			s, err := server.Accept(context.Background())
			if err != nil {
				return
			}
			io.WriteString(s, "127.0.0.1:80\n")
		}
	}()
	l, err := c.Listen(t.Context(), anyPort(target.TCP), "")
	if err != nil {
		t.Fatal(err)
	}
	id := l.Streams.(*Listener).stream.ID()
	client := target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:4000")}
	udp := target.Endpoint{Network: target.UDP, AddrPort: client.AddrPort}
	for name, header := range map[string]spdy.Header{
		"nothing":            {},
		"another stream":     incomingHeader(id+2, client),
		"another network":    incomingHeader(id, udp),
		"no client":          {"listener": {fmt.Sprint(id)}, "network": {"tcp"}},
		"a port to reach":    {"network": {"tcp"}, "port": {"22"}, "host": {"127.0.0.1"}},
		"one without number": {"listener": {"x"}, "network": {"tcp"}, "client": {"127.0.0.1:4000"}},
	} {
		s, err := server.OpenStream(header, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, spdy.ErrReset) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// There are only so many, and those that wait to be accepted are among them.
	for range maxIncoming {
		if _, err := server.OpenStream(incomingHeader(id, client), false); err != nil {
			t.Fatal(err)
		}
	}
	beyond, err := server.OpenStream(incomingHeader(id, client), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := beyond.Read(make([]byte, 1)); !errors.Is(err, spdy.ErrReset) {
		t.Errorf("one more than there may be: %v", err)
	}
	for range maxIncoming {
		if conn, err := l.Streams.Accept(); err != nil || conn.RemoteAddr().String() != client.AddrPort.String() {
			t.Fatalf("accept: %v, %v", conn, err)
		}
	}
}

// What the far end answers is shown, and written to files that scripts read, so that it is held to what was
// asked for.
func TestListenAnswer(t *testing.T) {
	testenv.NoLeaks(t)
	a, b := testenv.TCPPair(t)
	c := NewClient(a, ClientConfig{})
	defer c.Close()
	server := spdy.New(b, spdy.Config{Server: true, FlowControl: true})
	defer server.Close()
	for _, test := range []struct {
		at, answer string
		ok         bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80\n", true},
		{"127.0.0.1:0", "127.0.0.1:4711\n", true},
		{"[fe80::1%eth0]:80", "[fe80::1%2]:80\n", true},
		{"127.0.0.1:80", "127.0.0.1:81\n", false},
		{"127.0.0.1:80", "192.0.2.1:80\n", false},
		{"127.0.0.1:80", "[fe80::1%\x1b[2J 1.2.3.4:80]:80\n", false},
		{"127.0.0.1:80", "nothing\n", false},
		{"127.0.0.1:80", strings.Repeat("x", 1<<16), false},
	} {
		go func() {
			if s, err := server.Accept(t.Context()); err == nil {
				io.WriteString(s, test.answer)
			}
		}()
		at := netip.MustParseAddrPort(test.at)
		l, err := c.Listen(t.Context(), target.Endpoint{AddrPort: at}, "")
		if test.ok != (err == nil) {
			t.Errorf("%s, %.40q: %v", test.at, test.answer, err)
		}
		if err == nil {
			if l.Local.Addr() != at.Addr() {
				t.Errorf("%s: %v", test.at, l.Local)
			}
			l.Close()
		}
	}
}

// Each client of a UDP port is a connection of datagrams, and is told when nobody listens here.
func TestListenerUDP(t *testing.T) {
	testenv.NoLeaks(t)
	c, _ := open(t, ServerConfig{Bind: forward.Bind}, ClientConfig{})
	l := listenThere(t, c, target.UDP)
	var work sync.WaitGroup
	defer work.Wait()
	for i := range 3 {
		there, err := net.Dial("udp", l.Local.AddrPort.String())
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		_ = there.SetDeadline(time.Now().Add(testenv.Patience))
		fmt.Fprintf(there, "question %d", i)
		conn, err := l.Streams.Accept()
		if err != nil {
			t.Fatal(err)
		}
		here := conn.(*DatagramConn)
		defer here.Close()
		buf := make([]byte, 100)
		n, err := here.Read(buf)
		if err != nil || string(buf[:n]) != fmt.Sprintf("question %d", i) || here.RemoteAddr().String() != there.LocalAddr().String() {
			t.Fatalf("read %q from %v, %v", buf[:n], here.RemoteAddr(), err)
		}
		here.Write([]byte("answer"))
		if n, err = there.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("read %q there, %v", buf[:n], err)
		}
		here.Refuse()
		if _, err := there.Read(buf); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("read after a refusal: %v", err)
		}
	}
	l.Close()
	awaitFreeUDP(t, l.Local)
}

func awaitFreeUDP(t *testing.T, at target.Endpoint) {
	t.Helper()
	testenv.Await(t, at.String()+" is free", func() bool {
		l, err := net.ListenPacket("udp", at.AddrPort.String())
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

func FuzzParseListen(f *testing.F) {
	f.Add("tcp", "127.0.0.1", "80", "token")
	f.Add("udp", "::1", "0", "")
	f.Fuzz(func(t *testing.T, network, address, port, session string) {
		at, token, err := parseListen(spdy.Header{"Listen": {network}, "Address": {address}, "Port": {port}, "Session": {session}})
		if err != nil {
			return
		}
		again, tokenAgain, err := parseListen(received(listenHeader(at, token)))
		if err != nil || again != at || tokenAgain != token || !at.Addr().IsValid() || at.Network == target.Unix {
			t.Errorf("%v is read again as %v, %v", at, again, err)
		}
	})
}

func FuzzParseIncoming(f *testing.F) {
	f.Add("1", "tcp", "127.0.0.1:4000")
	f.Add("4294967295", "udp", "[fe80::1%eth0]:1")
	f.Fuzz(func(t *testing.T, listener, network, client string) {
		id, from, err := parseIncoming(spdy.Header{"Listener": {listener}, "Network": {network}, "Client": {client}})
		if err != nil {
			return
		}
		idAgain, again, err := parseIncoming(received(incomingHeader(id, from)))
		if err != nil || idAgain != id || again != from || !from.IsValid() {
			t.Errorf("%d, %v is read again as %d, %v, %v", id, from, idAgain, again, err)
		}
	})
}

// The vectors of docs/protocol.md: the header blocks of each side's first stream, without the zlib header
// before them.
func TestListenVectors(t *testing.T) {
	at := target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:8080")}
	client := target.Endpoint{AddrPort: netip.MustParseAddrPort("127.0.0.1:4000")}
	for text, header := range map[string]spdy.Header{
		"00 6600 99ff 00000005 00000007 61646472657373 00000009 3132372e302e302e31 00000006 6c697374656e 00000003 746370 00000007 6e6574776f726b 00000006 6c697374656e 00000004 706f7274 00000004 38303830 00000007 73657373696f6e 00000005 746f6b656e 00 0000 ffff": listenHeader(at, "token"),
		"00 4300 bcff 00000003 00000006 636c69656e74 0000000e 3132372e302e302e313a34303030 00000008 6c697374656e6572 00000001 31 00000007 6e6574776f726b 00000003 746370 00 0000 ffff":                                                                               incomingHeader(1, client),
	} {
		const zlibHeader = "7820e3c6a7c2"
		got := hex.EncodeToString(firstBlockOf(t, func(c *Client) error {
			_, err := c.OpenStream(header, false)
			return err
		}))
		if got != zlibHeader+strings.ReplaceAll(text, " ", "") {
			t.Errorf("%v: %s", header, got)
		}
	}
}
