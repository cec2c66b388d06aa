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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// maxChannelPorts is how many ports the older WebSocket forms open. Each takes
	// two channels, whose numbers start at '0' in the base64 form and end with
	// ASCII.
	maxChannelPorts = 40
	// channelCost is what a port of a tunnel is charged, in bytes: it has no window,
	// and holds a buffer and a message.
	channelCost = 128 << 10
	// goneCheck is how often a client is asked whether it is still there.
	goneCheck = 250 * time.Millisecond
	// goodbyeTime is how long ports have to take what came before their client
	// closed the WebSocket.
	goodbyeTime = 500 * time.Millisecond
)

// channelPorts are the ports that the query names, or else those of the PendingUpgrade.
func channelPorts(query url.Values, offered []uint16) ([]uint16, error) {
	var ports []uint16
	for _, list := range append(query["port"], query["ports"]...) {
		for text := range strings.SplitSeq(list, ",") {
			port, ok := tunnel.ParsePort(text)
			if !ok {
				return nil, fmt.Errorf("%q is not a port", tunnel.ClipText(text))
			}
			ports = append(ports, port)
		}
	}
	if len(ports) == 0 {
		ports = offered
	}
	if len(ports) == 0 || len(ports) > maxChannelPorts {
		return nil, fmt.Errorf("%d ports asked for, from 1 to %d can be", len(ports), maxChannelPorts)
	}
	return ports, nil
}

// channels is a tunnel in one of the older WebSocket forms. Each port has two
// channels, 2i for its bytes and 2i+1 for the text of an error; a message begins
// with its channel's number. There is no half-close, nor an end of one connection
// alone: the WebSocket is closed when all have ended.
type channels struct {
	proxy    tunnel.Proxy
	messages *messages
	conn     net.Conn
	base64   bool // the base64 form
	conns    []*channelConn
	ctx      context.Context // ends with the tunnel

	sending sync.Mutex
	waiting atomic.Bool // a port has not taken yet what was received for it
	probing atomic.Bool
}

func (r *upgradeRequest) newChannels(m *messages, conn net.Conn, name string, ports []uint16) *channels {
	if name == "" {
		name = channelProtocol
	}
	t := &channels{proxy: r.proxy(name), messages: m, conn: conn, base64: name == base64ChannelProtocol}
	for i, port := range ports {
		r, w := io.Pipe()
		t.conns = append(t.conns, &channelConn{tunnel: t, data: byte(2 * i), port: port, r: r, w: w})
	}
	return t
}

// IdleSince implements serverTunnel: it is never idle, but ends when its ports have.
func (t *channels) IdleSince() (time.Time, bool) { return time.Time{}, false }

// Close implements serverTunnel.
func (t *channels) Close() { t.messages.Close() }

// Run implements serverTunnel. It reports no error.
func (t *channels) Run(life context.Context) error {
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	t.ctx = ctx
	context.AfterFunc(ctx, func() { t.messages.Close() })
	var work sync.WaitGroup
	work.Go(func() { t.watch(ctx, cancel, &work) })
	work.Go(func() { cancel(t.receive(ctx)) })
	var connections sync.WaitGroup
	for _, c := range t.conns {
		connections.Go(func() {
			// The port's number goes ahead, on both channels.
			number := binary.LittleEndian.AppendUint16(nil, c.port)
			if errors.Join(t.send(c.data, number), t.send(c.data+1, number)) == nil {
				_ = t.proxy.Serve(ctx, c, target.TCPPort(c.port))
			}
		})
	}
	connections.Wait()
	if ctx.Err() == nil {
		t.messages.ws.Close(websocket.StatusNormalClosure, "")
	}
	cancel(nil)
	work.Wait()
	return nil
}

// watch ends the tunnel when its client has gone, which receiving does not notice
// while a port takes nothing. Where the client's close is stuck behind bytes that
// nobody reads, its host answers what is sent to it with a reset.
func (t *channels) watch(ctx context.Context, cancel context.CancelCauseFunc, work *sync.WaitGroup) {
	tick := time.NewTicker(goneCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if peerClosed(t.conn) {
				cancel(fmt.Errorf("%w: %w", tunnel.ErrTunnel, io.ErrUnexpectedEOF))
			}
			if t.waiting.Load() && t.probing.CompareAndSwap(false, true) {
				work.Go(t.probe)
			}
		}
	}
}

// probe writes an unsolicited Pong, which a client ignores (RFC 6455, section 5.5.3); a client
// that cannot write now either would have to answer a Ping. While something is being sent
// already, there is no need for it.
func (t *channels) probe() {
	defer t.probing.Store(false)
	if t.sending.TryLock() {
		defer t.sending.Unlock()
		_, _ = t.messages.out.Write([]byte{0x8a, 0})
	}
}

// receive hands messages to their channels until the WebSocket ends, and returns why
// it did. A client that says goodbye ends all its connections, so that ports see
// an end of file; what they still answer is lost.
func (t *channels) receive(ctx context.Context) error {
	var err error
	for err == nil {
		err = t.receiveMessage()
	}
	goodbye := false
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		goodbye = true
	}
	err = fmt.Errorf("%w: %w", tunnel.ErrTunnel, err)
	for _, c := range t.conns {
		if goodbye {
			c.w.Close()
		} else {
			c.w.CloseWithError(err)
		}
	}
	if goodbye {
		backoff.Sleep(ctx, goodbyeTime, nil)
	}
	return err
}

// receiveMessage hands one message to the connection that it is for, and waits until that has
// it. What comes after the connection's end is dropped.
func (t *channels) receiveMessage() error {
	_, r, err := t.messages.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	c, r, err := t.address(r)
	if err != nil {
		return err
	}
	if c != nil {
		t.waiting.Store(true)
		_, err = io.Copy(c.w, r)
		t.waiting.Store(false)
	}
	if c == nil || errors.Is(err, io.ErrClosedPipe) {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// address reads which connection a message is for, and returns that and the reader of its
// payload. The connection is nil for an empty message, and for one on an error channel.
func (t *channels) address(r io.Reader) (*channelConn, io.Reader, error) {
	var number [1]byte
	if _, err := io.ReadFull(r, number[:]); err != nil {
		if err == io.EOF {
			return nil, r, nil
		}
		return nil, nil, err
	}
	n := number[0]
	if t.base64 {
		n -= '0'
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	if n%2 != 0 || int(n/2) >= len(t.conns) {
		return nil, r, nil
	}
	return t.conns[n/2], r, nil
}

// send sends one message.
func (t *channels) send(channel byte, p []byte) error {
	t.sending.Lock()
	defer t.sending.Unlock()
	if t.base64 {
		text := make([]byte, 1, 1+base64.StdEncoding.EncodedLen(len(p)))
		text[0] = '0' + channel
		return t.messages.write(websocket.MessageText, base64.StdEncoding.AppendEncode(text, p))
	}
	return t.messages.write(websocket.MessageBinary, append([]byte{channel}, p...))
}

// channelConn is the connection to one port.
type channelConn struct {
	tunnel *channels
	data   byte // the channel; the next one is that of errors
	port   uint16
	r      *io.PipeReader
	w      *io.PipeWriter
}

// Read implements tunnel.ServerConn.
func (c *channelConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Write implements tunnel.ServerConn.
func (c *channelConn) Write(p []byte) (int, error) {
	if err := c.tunnel.send(c.data, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite implements tunnel.ServerConn. There is no way to tell the client: the connection
// ends here in both directions.
func (c *channelConn) CloseWrite() error { return c.w.Close() }

// Close implements tunnel.ServerConn.
func (c *channelConn) Close() error { return c.r.Close() }

// Reset implements tunnel.ServerConn.
func (c *channelConn) Reset() error { return c.Close() }

// AfterLoss implements tunnel.ServerConn: all connections are lost with their tunnel.
func (c *channelConn) AfterLoss(f func()) { context.AfterFunc(c.tunnel.ctx, f) }

// Loss implements tunnel.ServerConn.
func (c *channelConn) Loss() error {
	err := context.Cause(c.tunnel.ctx)
	if errors.Is(err, context.Canceled) { // by the Server, or at the regular end
		err = net.ErrClosed
	}
	return err
}

// SentEOF implements tunnel.ServerConn.
func (c *channelConn) SentEOF() bool { return false }

// Fail implements tunnel.ServerConn.
func (c *channelConn) Fail(_ error, text string) {
	_ = c.tunnel.send(c.data+1, []byte(text))
	_ = c.Close()
}

// End implements tunnel.ServerConn. A failure is told by a text, since there is no other way.
func (c *channelConn) End(err error) {
	if err != nil {
		c.Fail(err, c.tunnel.proxy.Describe(target.TCPPort(c.port), err))
	}
}
