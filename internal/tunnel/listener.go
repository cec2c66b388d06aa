package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

const (
	// maxIncoming is how many connections of a tunnel's Listeners there are at once, those that wait for
	// Accept among them. The far end chooses how many it opens.
	maxIncoming = 2000
)

// Listener is an address that the far end listens on: a net.Listener whose connections are *Conn, or of UDP
// a *DatagramConn for each client.
type Listener struct {
	client  *Client
	stream  *spdy.Stream // the address is listened on for as long as it is open
	asked   target.Endpoint
	waiting chan net.Conn
	over    chan struct{} // closed when err is set

	mu    sync.Mutex
	err   error // why there are no more connections
	bound bool  // the far end listens: its owner is told of the end
}

// Listen has the far end listen on an address of what the tunnel leads to, until the Listener is closed or
// the tunnel ends. Port 0 is any free one. A Listener of the same session on the same address, also of an
// earlier tunnel, is closed first; "" is no session. The Listener's Streams is a *Listener. Errors: *PortError
// if the far end cannot listen or does not do that, ErrTunnel, and the context's.
func (c *Client) Listen(ctx context.Context, at target.Endpoint, session string) (*route.Listener, error) {
	return c.listen(ctx, at, listenHeader(at, session))
}

func (c *Client) listen(ctx context.Context, at target.Endpoint, header spdy.Header) (*route.Listener, error) {
	l := &Listener{client: c, asked: at, waiting: make(chan net.Conn, maxIncoming), over: make(chan struct{})}
	if err := l.open(header); err != nil {
		return nil, err
	}
	line, err := readLine(ctx, l.stream)
	if err != nil {
		err = l.explain(err)
		l.Close()
		return nil, err
	}
	bound, err := netip.ParseAddrPort(line)
	if err != nil || bound.Addr().WithZone("") != at.Addr().Unmap().WithZone("") || at.Port() != 0 && bound.Port() != at.Port() {
		l.Close()
		return nil, fmt.Errorf("listen on %s: the far end answers %.80q", at, line)
	}
	l.mu.Lock()
	l.bound = true
	l.mu.Unlock()
	go l.watch()
	local := target.Endpoint{Network: at.Network, AddrPort: netip.AddrPortFrom(at.Addr(), bound.Port())} // the zone is as this side has it
	return &route.Listener{Local: local, Streams: l}, nil
}

// open opens the stream, and enters the Listener before a connection of its can come.
func (l *Listener) open(header spdy.Header) (err error) {
	l.client.mu.Lock()
	defer l.client.mu.Unlock()
	if l.stream, err = l.client.OpenStream(header, false); err == nil {
		l.client.listeners[l.stream.ID()] = l
	}
	return err
}

// watch notes why the far end listens no more.
func (l *Listener) watch() {
	_, err := l.stream.Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the far end has stopped listening")
	}
	l.end(l.explain(err))
}

func (l *Listener) explain(err error) error {
	to := target.Address{Network: l.asked.Network, Host: l.asked.Addr().String(), Port: l.asked.Port()}
	conn := Conn{client: l.client, stream: l.stream, to: to}
	return conn.explain(err)
}

// Accept implements net.Listener. The error is why there are no more connections: *PortError if the far end
// says so, ErrTunnel, and net.ErrClosed after Close.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.waiting:
		return conn, nil
	case <-l.over:
		return nil, l.err
	}
}

// Addr returns the address that was asked for.
func (l *Listener) Addr() net.Addr {
	return Addr{target.Address{Network: l.asked.Network, Host: l.asked.Addr().String(), Port: l.asked.Port()}}
}

// Close lets the far end stop listening. Connections that were accepted live on.
func (l *Listener) Close() error {
	l.end(net.ErrClosed)
	return nil
}

// end ends the Listener for the given reason; the first call counts.
func (l *Listener) end(err error) {
	l.client.mu.Lock()
	delete(l.client.listeners, l.stream.ID())
	l.client.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.over)
	_ = l.stream.Reset()
	for len(l.waiting) > 0 {
		_ = (<-l.waiting).(interface{ Reset() error }).Reset()
	}
	if l.bound && l.client.cfg.ConnClosed != nil {
		l.client.cfg.ConnClosed()
	}
}

// offer hands a connection to Accept, and reports whether there is room for it.
func (l *Listener) offer(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(l.waiting) == maxIncoming {
		return false
	}
	l.waiting <- conn
	return true
}

// acceptAll takes the streams that the far end opens, until the tunnel ends. Those that belong to no
// Listener of this side are reset: the far end chooses no destination.
func (c *Client) acceptAll() {
	for {
		stream, err := c.Accept(context.Background())
		if err != nil {
			return
		}
		if !c.take(stream) {
			_ = stream.Reset()
		}
	}
}

// take hands a stream of the far end to its Listener, and reports whether that takes it.
func (c *Client) take(stream *spdy.Stream) bool {
	id, from, err := parseIncoming(stream.Headers())
	c.mu.Lock()
	l := c.listeners[id]
	c.mu.Unlock()
	if err != nil || l == nil || from.Network != l.asked.Network {
		return false
	}
	if c.incoming.Add(1) > maxIncoming {
		c.incoming.Add(-1)
		return false
	}
	conn := &Conn{
		client: c, stream: stream, to: target.Address{Network: from.Network}, from: from.AddrPort, opened: time.Now(),
		closed: func() { c.incoming.Add(-1) },
	}
	var taken net.Conn = conn
	if from.Network == target.UDP {
		taken = &DatagramConn{conn}
	}
	if !l.offer(taken) {
		_ = conn.Reset()
	}
	return true
}
