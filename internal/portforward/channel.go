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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// maxChannelPorts is how many ports the older WebSocket forms open. Each takes
	// two channels, whose numbers start at '0' in the base64 form and end with
	// ASCII.
	maxChannelPorts = 40
	// channelCost is what a port of a tunnel is charged, in octets: it has no window,
	// and holds a buffer and a message.
	channelCost = 128 << 10
	// goneCheck is how often a client is asked whether it is still there.
	goneCheck = 250 * time.Millisecond
	// goodbyeTime is how long ports have to take what came before their client
	// closed the WebSocket.
	goodbyeTime = 500 * time.Millisecond
)

// channelPorts are the ports that the query names, or else those of the Offer.
func channelPorts(query url.Values, offered []uint16) ([]uint16, error) {
	var ports []uint16
	for _, list := range append(query["port"], query["ports"]...) {
		for text := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("%q is not a port", clip(text))
			}
			ports = append(ports, uint16(n))
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
// channels, 2i for its octets and 2i+1 for the words of an error; a message begins
// with its channel's number. There is no half-close, nor an end of one connection
// alone: the WebSocket is closed when all have ended.
type channels struct {
	*caller
	messages *messages
	conn     net.Conn
	protocol string
	text     bool // the base64 form
	lines    []*channelLine
	ctx      context.Context // ends with the tunnel

	sending sync.Mutex
	waiting atomic.Bool // a port has not taken yet what was received for it
	nudging atomic.Bool
}

func (c *caller) newChannels(m *messages, conn net.Conn, name string, ports []uint16) *channels {
	if name == "" {
		name = channelProtocol
	}
	t := &channels{caller: c, messages: m, conn: conn, protocol: name, text: name == base64ChannelProtocol}
	for i, port := range ports {
		r, w := io.Pipe()
		t.lines = append(t.lines, &channelLine{tunnel: t, data: byte(2 * i), port: port, r: r, w: w})
	}
	return t
}

// idleSince implements served: when its ports have ended, so does it.
func (t *channels) idleSince() (time.Time, bool) { return time.Time{}, false }

// end implements served.
func (t *channels) end() { t.messages.Close() }

// run implements served.
func (t *channels) run(life context.Context) {
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	t.ctx = ctx
	context.AfterFunc(ctx, func() { t.messages.Close() })
	var work sync.WaitGroup
	work.Go(func() { t.watch(ctx, cancel, &work) })
	work.Go(func() { cancel(t.receive(ctx)) })
	var connections sync.WaitGroup
	for _, l := range t.lines {
		connections.Go(func() {
			if l.announce() == nil {
				_ = t.join(ctx, l, l.port, t.protocol)
			}
		})
	}
	connections.Wait()
	if ctx.Err() == nil {
		t.messages.ws.Close(websocket.StatusNormalClosure, "")
	}
	cancel(nil)
	work.Wait()
}

// watch ends the tunnel when its client has gone, which receiving does not notice
// while a port takes nothing. Where the client's close is stuck behind octets that
// nobody reads, its host answers what is sent to it with a reset.
func (t *channels) watch(ctx context.Context, cancel context.CancelCauseFunc, work *sync.WaitGroup) {
	tick := time.NewTicker(goneCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if gone(t.conn) {
				cancel(fmt.Errorf("%w: %w", ErrTunnel, io.ErrUnexpectedEOF))
			}
			if t.waiting.Load() && t.nudging.CompareAndSwap(false, true) {
				work.Go(t.nudge)
			}
		}
	}
}

// nudge writes a Pong that nobody asked for, which a client ignores (RFC 6455,
// section 5.5.3); a Ping would make one answer that cannot write now either. If
// something is being sent already there is no need.
func (t *channels) nudge() {
	defer t.nudging.Store(false)
	if t.sending.TryLock() {
		defer t.sending.Unlock()
		_, _ = t.messages.out.Write([]byte{0x8a, 0})
	}
}

// receive hands messages to their channels until the WebSocket ends, and says why
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
	err = fmt.Errorf("%w: %w", ErrTunnel, err)
	for _, l := range t.lines {
		if goodbye {
			l.w.Close()
		} else {
			l.w.CloseWithError(err)
		}
	}
	if goodbye {
		select {
		case <-ctx.Done():
		case <-time.After(goodbyeTime):
		}
	}
	return err
}

func (t *channels) receiveMessage() error {
	_, r, err := t.messages.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	l, r, err := t.address(r)
	if err != nil {
		return err
	}
	if l == nil {
		_, err = io.Copy(io.Discard, r)
		return err
	}
	t.waiting.Store(true)
	defer t.waiting.Store(false)
	return l.take(r)
}

// address reads whom a message is for, nil for nobody, and what it brings. Words on
// an error channel are for nobody; an empty message is.
func (t *channels) address(r io.Reader) (*channelLine, io.Reader, error) {
	var number [1]byte
	if _, err := io.ReadFull(r, number[:]); err != nil {
		if err == io.EOF {
			return nil, r, nil
		}
		return nil, nil, err
	}
	n := number[0]
	if t.text {
		n -= '0'
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	if n%2 != 0 || int(n/2) >= len(t.lines) {
		return nil, r, nil
	}
	return t.lines[n/2], r, nil
}

// send sends one message.
func (t *channels) send(channel byte, p []byte) error {
	t.sending.Lock()
	defer t.sending.Unlock()
	if t.text {
		text := make([]byte, 1, 1+base64.StdEncoding.EncodedLen(len(p)))
		text[0] = '0' + channel
		return t.messages.write(websocket.MessageText, base64.StdEncoding.AppendEncode(text, p))
	}
	return t.messages.write(websocket.MessageBinary, append([]byte{channel}, p...))
}

// channelLine is the connection to one port.
type channelLine struct {
	tunnel *channels
	data   byte // the channel; the next is that of errors
	port   uint16
	r      *io.PipeReader
	w      *io.PipeWriter
}

// announce sends the port's number ahead, on both channels.
func (l *channelLine) announce() error {
	number := binary.LittleEndian.AppendUint16(nil, l.port)
	return errors.Join(l.tunnel.send(l.data, number), l.tunnel.send(l.data+1, number))
}

// take hands a message's octets to the connection, and waits until it has them.
// What comes after its end is for nobody.
func (l *channelLine) take(r io.Reader) error {
	_, err := io.Copy(l.w, r)
	if errors.Is(err, io.ErrClosedPipe) {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// Read implements line.
func (l *channelLine) Read(p []byte) (int, error) { return l.r.Read(p) }

// Write implements line.
func (l *channelLine) Write(p []byte) (int, error) {
	if err := l.tunnel.send(l.data, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite implements line. There is no way to tell the client: the connection
// ends here in both directions.
func (l *channelLine) CloseWrite() error { return l.w.Close() }

// Close implements line.
func (l *channelLine) Close() error { return l.r.Close() }

// Reset implements line.
func (l *channelLine) Reset() error { return l.Close() }

// AfterLoss implements line: all connections are lost with their tunnel.
func (l *channelLine) AfterLoss(f func()) { context.AfterFunc(l.tunnel.ctx, f) }

// Loss implements line.
func (l *channelLine) Loss() error {
	err := context.Cause(l.tunnel.ctx)
	if errors.Is(err, context.Canceled) { // by the Server, or when all is over
		err = net.ErrClosed
	}
	return err
}

func (l *channelLine) finished() bool { return false }

func (l *channelLine) fail(_ error, text string) {
	_ = l.tunnel.send(l.data+1, []byte(text))
	_ = l.Close()
}

// end says a failure in words, since there is no other way to.
func (l *channelLine) end(err error) {
	if err != nil {
		l.fail(err, l.tunnel.words(l.port, err))
	}
}
