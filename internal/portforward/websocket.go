package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// gatherSize is how much of a message is gathered before it is written.
const gatherSize = 64 << 10

// upgradeWebSocket opens a WebSocket whose binary messages carry SPDY.
func (c *Client) upgradeWebSocket(ctx context.Context) (upgraded, error) {
	ctx, conn := carrier(ctx)
	shake := &handshake{transport: c.Transport}
	//nolint:bodyclose // of a 101 it is the connection itself; of others handshake makes it empty
	ws, _, err := websocket.Dial(ctx, c.URL.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     shake,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Subprotocols: c.protocols(webSocketProtocolV1, webSocketProtocol),
	})
	if err != nil {
		return upgraded{}, shake.explain(err)
	}
	chosen := ws.Subprotocol()
	if chosen != webSocketProtocolV1 && chosen != webSocketProtocol {
		ws.CloseNow()
		return upgraded{}, fmt.Errorf("%w: WebSocket protocol is %q", errUpgrade, chosen)
	}
	ws.SetReadLimit(-1) // a message is a piece of a stream: its size says nothing
	return upgraded{&messages{ws: ws, out: shake.out}, strings.TrimPrefix(chosen, tunnelPrefix), *conn}, nil
}

// handshake is the Client's Transport for one WebSocket. It keeps the server's
// refusal, of which the WebSocket library keeps one kilobyte, and gathers what the library
// writes.
type handshake struct {
	transport http.RoundTripper
	out       *gatherer    // set when the answer was 101
	status    *StatusError // set when it was another one
	err       error        // set when there was none
}

func (h *handshake) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := h.transport.RoundTrip(req)
	if err != nil {
		h.err = err
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		h.status = statusError(resp)
		resp.Body = http.NoBody
		return resp, nil
	}
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
		h.out = &gatherer{ReadWriteCloser: rwc}
		resp.Body = h.out
	}
	return resp, nil
}

// explain replaces the library's error by the one behind it.
func (h *handshake) explain(err error) error {
	switch {
	case h.status != nil:
		return h.status
	case h.err != nil:
		return h.err
	case h.out != nil:
		return fmt.Errorf("%w: %w", errUpgrade, err)
	}
	return err
}

// gatherer is a connection whose writes can be gathered. The library writes a
// message in pieces of 4 KiB, which would be a system call, a TLS record and a
// read at the other end each.
type gatherer struct {
	io.ReadWriteCloser

	mu        sync.Mutex
	gathering bool
	buf       []byte
}

func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gathering {
		return g.ReadWriteCloser.Write(p)
	}
	if len(p) >= gatherSize/2 { // a server's, whose payload is not masked piece by piece
		return g.through(p)
	}
	g.buf = append(g.buf, p...)
	if len(g.buf) >= gatherSize {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// through writes what was gathered and p, in one system call where that can be;
// g.mu is held.
func (g *gatherer) through(p []byte) (int, error) {
	pieces := net.Buffers{g.buf, p}
	n, err := pieces.WriteTo(g.ReadWriteCloser)
	n -= int64(len(g.buf))
	g.buf = g.buf[:0]
	return int(max(n, 0)), err
}

// gather holds writes back until release.
func (g *gatherer) gather() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gathering = true
}

func (g *gatherer) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gathering = false
	return g.flush()
}

// flush writes what was gathered; g.mu is held.
func (g *gatherer) flush() error {
	if len(g.buf) == 0 {
		return nil
	}
	_, err := g.ReadWriteCloser.Write(g.buf)
	g.buf = g.buf[:0]
	return err
}

// messages is the byte stream in the binary messages of a WebSocket (RFC 6455,
// section 5.6). One goroutine at a time may read, and one may write.
type messages struct {
	ws  *websocket.Conn
	out *gatherer
	in  io.Reader // the message being read, or nil
}

var errMessage = errors.New("websocket message is not binary")

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.in == nil {
			if err := m.next(); err != nil {
				return 0, err
			}
		}
		n, err := m.in.Read(p)
		if err == io.EOF {
			m.in, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (m *messages) next() error {
	kind, r, err := m.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	if kind != websocket.MessageBinary {
		return errMessage
	}
	m.in = r
	return nil
}

// Write sends p as one message.
func (m *messages) Write(p []byte) (int, error) {
	if err := m.write(websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// write sends one message in as few writes as it takes.
func (m *messages) write(kind websocket.MessageType, p []byte) error {
	m.out.gather()
	err := m.ws.Write(context.Background(), kind, p)
	return errors.Join(err, m.out.release())
}

// Close closes the connection without the closing handshake of RFC 6455: SPDY has a farewell of
// its own (GOAWAY).
func (m *messages) Close() error { return m.ws.CloseNow() }
