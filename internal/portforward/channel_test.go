package portforward

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"porthole.dev/porthole/internal/testenv"
)

// channelClient speaks one of the older WebSocket forms.
type channelClient struct {
	t    testing.TB
	ws   *websocket.Conn
	text bool
}

// channelForms runs a test with each form: binary by its name and without one, and
// base64.
func channelForms(t *testing.T, test func(t *testing.T, open func(n *node, ports ...uint16) *channelClient)) {
	for name, protocols := range map[string][]string{
		"none": nil, "binary": {channelProtocol}, "base64": {base64ChannelProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(n *node, ports ...uint16) *channelClient {
				return openChannels(t, n, protocols, ports)
			})
		})
	}
}

func openChannels(t testing.TB, n *node, protocols []string, ports []uint16) *channelClient {
	t.Helper()
	query := strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ","), "[]")
	//nolint:bodyclose // of a 101 it is the connection itself
	ws, _, err := websocket.Dial(t.Context(), n.http.URL+"/pod?ports="+query, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	c := &channelClient{t: t, ws: ws, text: slices.Contains(protocols, base64ChannelProtocol)}
	for range 2 * len(ports) {
		channel, bytes := c.receive()
		if want := ports[channel/2]; len(bytes) != 2 || binary.LittleEndian.Uint16(bytes) != want {
			t.Fatalf("channel %d begins with %x, not port %d", channel, bytes, want)
		}
	}
	return c
}

func (c *channelClient) receive() (channel byte, bytes []byte) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), testenv.Patience)
	defer cancel()
	kind, p, err := c.ws.Read(ctx)
	if err != nil || len(p) == 0 || (kind == websocket.MessageText) != c.text {
		c.t.Fatalf("received %v, %x, %v", kind, p, err)
	}
	if !c.text {
		return p[0], p[1:]
	}
	bytes, err = base64.StdEncoding.DecodeString(string(p[1:]))
	if err != nil {
		c.t.Fatal(err)
	}
	return p[0] - '0', bytes
}

func (c *channelClient) send(channel byte, bytes []byte) error {
	if c.text {
		return c.ws.Write(c.t.Context(), websocket.MessageText,
			[]byte(string('0'+rune(channel))+base64.StdEncoding.EncodeToString(bytes)))
	}
	return c.ws.Write(c.t.Context(), websocket.MessageBinary, append([]byte{channel}, bytes...))
}

// want receives until the bytes of a channel are those wanted.
func (c *channelClient) want(channel byte, bytes string) {
	c.t.Helper()
	var got []byte
	for len(got) < len(bytes) {
		from, p := c.receive()
		if from != channel {
			c.t.Fatalf("channel %d says %q", from, p)
		}
		got = append(got, p...)
	}
	if string(got) != bytes {
		c.t.Fatalf("received %.100q", got)
	}
}

func TestChannels(t *testing.T) {
	channelForms(t, func(t *testing.T, open func(*node, ...uint16) *channelClient) {
		n := newNode(t)
		first := testenv.ServeTCP(t, testenv.Echo)
		second := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			b := make([]byte, 5)
			io.ReadFull(conn, b)
			conn.Write([]byte("got " + string(b)))
		})
		c := open(n, first, second)
		c.send(7, []byte("for nobody"))
		c.send(1, []byte("for nobody"))
		c.send(0, nil)
		c.send(0, []byte("hello"))
		c.want(0, "hello")
		c.send(2, []byte("howdy"))
		c.want(2, "got howdy")
		big := strings.Repeat("0123456789abcdef", 1<<15)
		go c.send(0, []byte(big))
		c.want(0, big)
		c.ws.Close(websocket.StatusNormalClosure, "")
		within(t, 10*time.Second, "the ends are told", func() bool { _, ended := n.told(); return len(ended) == 2 })
		_, ended := n.told()
		for _, e := range ended {
			if e.To.Port == second && (e.Err != nil || e.Sent != 5 || e.Received != 9) {
				t.Errorf("event %+v", e)
			}
			if want := map[bool]string{false: channelProtocol, true: base64ChannelProtocol}[c.text]; e.Protocol != want {
				t.Errorf("protocol %q", e.Protocol)
			}
		}
	})
}

// When all ports have ended the WebSocket is closed.
func TestChannelsEnd(t *testing.T) {
	channelForms(t, func(t *testing.T, open func(*node, ...uint16) *channelClient) {
		bye := testenv.ServeTCP(t, func(conn *net.TCPConn) { io.WriteString(conn, "bye") })
		c := open(newNode(t), bye)
		c.want(0, "bye")
		_, _, err := c.ws.Read(t.Context())
		if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
			t.Errorf("read: %v", err)
		}
	})
}

// A client's goodbye is the port's end of file; its death is a reset.
func TestChannelsClientGoes(t *testing.T) {
	channelForms(t, func(t *testing.T, open func(*node, ...uint16) *channelClient) {
		seen := make(chan error, 1)
		port := testenv.ServeTCP(t, func(conn *net.TCPConn) {
			_, err := io.ReadAll(conn)
			seen <- err
		})
		n := newNode(t)
		c := open(n, port)
		c.send(0, []byte("x"))
		c.ws.Close(websocket.StatusNormalClosure, "")
		if err := <-seen; err != nil {
			t.Errorf("after goodbye: %v", err)
		}
		c = open(n, port)
		c.send(0, []byte("x"))
		c.ws.CloseNow()
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after death: %v", err)
		}
	})
}

// A client that goes while its port takes nothing is noticed.
func TestChannelsStalled(t *testing.T) {
	t.Parallel()
	channelForms(t, func(t *testing.T, open func(*node, ...uint16) *channelClient) {
		t.Parallel()
		stuck := make(chan struct{})
		port := testenv.ServeTCP(t, func(*net.TCPConn) { <-stuck })
		t.Cleanup(func() { close(stuck) })
		n := newNode(t)
		c := open(n, port)
		go func() {
			for c.send(0, make([]byte, 1<<20)) == nil {
			}
		}()
		within(t, 10*time.Second, "connection", n.hasOpened)
		time.Sleep(time.Second) // for queues to fill
		c.ws.CloseNow()
		within(t, 10*time.Second, "the end is told", func() bool { _, ended := n.told(); return len(ended) == 1 })
	})
}

func TestChannelsRefused(t *testing.T) {
	channelForms(t, func(t *testing.T, open func(*node, ...uint16) *channelClient) {
		port := testenv.FreePort(t)
		c := open(newNode(t), port)
		channel, words := c.receive()
		if channel != 1 || !strings.HasPrefix(string(words), fmt.Sprintf("error forwarding port %d to pod 4f2a, uid : ", port)) {
			t.Errorf("channel %d says %q", channel, words)
		}
	})
}

// Broken base64 is no bytes at all: the tunnel ends.
func TestChannelsBroken(t *testing.T) {
	n := newNode(t)
	port := testenv.ServeTCP(t, func(conn *net.TCPConn) { io.Copy(io.Discard, conn) })
	c := openChannels(t, n, []string{base64ChannelProtocol}, []uint16{port})
	c.ws.Write(t.Context(), websocket.MessageText, []byte("0%%%%"))
	for { // perhaps words about it
		if _, _, err := c.ws.Read(t.Context()); err != nil {
			break
		}
	}
	within(t, 10*time.Second, "the end is told", func() bool { _, ended := n.told(); return len(ended) == 1 })
	if _, ended := n.told(); ended[0].Err == nil {
		t.Errorf("event %+v", ended[0])
	}
}

func TestChannelPorts(t *testing.T) {
	offered := []uint16{80}
	for query, want := range map[string][]uint16{
		"":                                   {80},
		"ports=8080":                         {8080},
		"port=8080":                          {8080},
		"ports=1,2&ports=3":                  {1, 2, 3},
		"port=65535&ports=1":                 {65535, 1},
		"ports=":                             nil,
		"ports=1,":                           nil,
		"ports=0":                            nil,
		"ports=65536":                        nil,
		"ports=-1":                           nil,
		"ports=http":                         nil,
		"ports=1" + strings.Repeat(",1", 40): nil,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := channelPorts(q, offered); !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %v, %v", query, got, err)
		}
	}
}

// FuzzChannels lets a client send any message. Nothing may panic, and a message
// reaches at most the channel that it names.
func FuzzChannels(f *testing.F) {
	f.Add([]byte{0, 'x'}, false)
	f.Add([]byte("0aGVsbG8="), true)
	f.Add([]byte("2%"), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, message []byte, text bool) {
		c := &channels{base64: text, conns: []*channelConn{{data: 0}, {data: 2}}}
		conn, r, err := c.address(strings.NewReader(string(message)))
		if err != nil || conn == nil {
			return
		}
		number := message[0]
		if text {
			number -= '0'
		}
		if conn.data != number {
			t.Fatalf("message for %d went to %d", number, conn.data)
		}
		got, err := io.ReadAll(r)
		if err == nil && !text && string(got) != string(message[1:]) {
			t.Fatalf("%q became %q", message, got)
		}
	})
}
