// Package spdy carries many half-closing byte streams over one connection, as
// SPDY/3.1 frames: the part of the protocol that Kubernetes port-forwarding uses,
// client and server. It must not know what the streams are for: no ports, no
// HTTP upgrade, no Kubernetes.
package spdy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// closeGrace is how long Close waits for the transport to take what is queued.
const closeGrace = 500 * time.Millisecond

// Conn is one end of a tunnel. It owns the transport and two goroutines, which
// read and write it. Its methods are safe to call at the same time.
type Conn struct {
	cfg        Config
	transport  io.ReadWriteCloser
	hangUp     sync.Once // closes transport
	send       sender
	chunks     chunkPool
	reader     frameReader
	beat       heartbeat
	stallWatch stallWatch

	started    time.Time
	readStall  atomic.Int64 // since when after started the read loop waits, or 0
	writeStall atomic.Int64 // the same for the write loop
	progress   atomic.Uint64

	loops   sync.WaitGroup
	done    chan struct{} // closed once err is set
	arrived chan struct{} // holds a token while backlog may have something

	mu      sync.Mutex // may be held when taking send.mu, never the other way
	err     error      // ErrTunnel, once the tunnel is gone
	away    bool       // the peer has sent GOAWAY
	streams map[uint32]*Stream
	open    [2]int // streams by the parity of their id
	nextID  uint32 // of our next stream
	lastID  uint32 // of the peer's last stream
	leaving bool   // GOAWAY was sent: the peer's further streams are refused
	leftID  uint32 // lastID when it was
	backlog []*Stream
	windows windows

	// Used by the read loop alone.
	headers     headerDecoder
	sessionDebt int // bytes received and not given back to the session window
}

// New starts a tunnel over transport and owns it from here on. Close must unblock
// the transport's Read and Write. If the transport is a net.Conn the streams have
// its addresses. Frames that belong together go to transport in one Write each.
func New(transport io.ReadWriteCloser, cfg Config) *Conn {
	c := &Conn{
		cfg:       cfg.withDefaults(),
		transport: transport,
		started:   time.Now(),
		done:      make(chan struct{}),
		arrived:   make(chan struct{}, 1),
		streams:   make(map[uint32]*Stream),
		nextID:    cfg.firstID(),
	}
	c.chunks.share = cfg.Share
	c.send.init(c.cfg)
	c.reader.init(transport)
	c.announce()
	c.beat.start(c)
	c.loops.Add(2)
	go c.readLoop()
	go c.writeLoop()
	return c
}

// OpenStream opens a stream and does not wait for the peer: what is written to it
// follows at once. If fin is true there is nothing to be written. A refusal shows
// as ErrRefused on the first Read or Write that comes after it. Headers are sent
// in lower case; a name may have several values. Errors: ErrGoAway, ErrTooManyStreams, ErrNoMemory, ErrTunnel.
func (c *Conn) OpenStream(headers Header, fin bool) (*Stream, error) {
	text, err := headerText(headers)
	if err != nil {
		return nil, err
	}
	s, err := c.startStream(headers, text, fin)
	if err != nil {
		return nil, err
	}
	c.topUp(s)
	return s, nil
}

func (c *Conn) startStream(headers Header, text []byte, fin bool) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case c.away || c.nextID > maxStreamID:
		return nil, ErrGoAway
	case c.open[c.nextID&1] >= c.cfg.MaxStreams:
		return nil, ErrTooManyStreams
	}
	cost, ok := c.afford(headers)
	if !ok {
		return nil, ErrNoMemory
	}
	syn := control{kind: kindSynStream, streamID: c.nextID}
	if fin {
		syn.flags = flagFin
	}
	batches, err := c.send.enqueueHeaders(syn, text)
	if err != nil {
		c.cfg.Share.Release(cost)
		return nil, err
	}
	s := c.newStream(c.nextID, headers, cost, batches)
	c.nextID += 2
	if fin {
		s.done = sending
		c.send.abort(s, net.ErrClosed)
	}
	return s, nil
}

// Accept waits for a stream that the peer opened. The peer has got an answer already; to
// refuse the stream, Reset it. Before it is accepted it counts as open. The error is the
// context's, or ErrTunnel.
func (c *Conn) Accept(ctx context.Context) (*Stream, error) {
	for {
		if s := c.popBacklog(); s != nil {
			return s, nil
		}
		select {
		case <-c.arrived:
		case <-c.done:
			return nil, c.Err()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *Conn) popBacklog() *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || len(c.backlog) == 0 {
		return nil
	}
	s := c.backlog[0]
	c.backlog = c.backlog[1:]
	if len(c.backlog) > 0 {
		c.announceArrival()
	}
	return s
}

func (c *Conn) announceArrival() {
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

// Cork holds frames back until Uncork, so that everything opened and written in between goes to
// the transport in one Write. Each Cork needs its Uncork. Once there are more than 128 KiB they
// are written all the same.
func (c *Conn) Cork() { c.send.cork(1) }

// Uncork lets go what Cork held back.
func (c *Conn) Uncork() { c.send.cork(-1) }

// Streams returns how many streams are open, in both directions of opening.
func (c *Conn) Streams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams)
}

// Stalled returns for how long the tunnel has now been stuck: its reading, since
// one stream's buffer is full (never with FlowControl), or its writing, since the
// peer takes nothing. It is 0 while both move. A tunnel that has been stuck for
// some time should get no new streams.
func (c *Conn) Stalled() time.Duration {
	now := c.now()
	longest := int64(0)
	for _, since := range []int64{c.readStall.Load(), c.writeStall.Load()} {
		if since > 0 {
			longest = max(longest, now-since)
		}
	}
	return time.Duration(longest)
}

// now is the time since the tunnel began, in nanoseconds, never 0.
func (c *Conn) now() int64 { return max(1, int64(time.Since(c.started))) }

// LastRead returns when bytes last came from the transport; at first, when the tunnel began.
func (c *Conn) LastRead() time.Time {
	return c.reader.started.Add(time.Duration(c.reader.lastRead.Load()))
}

// Ping sends a PING at once, if this end sends any.
func (c *Conn) Ping() { c.beat.now() }

// GiveUp ends the tunnel as lost: every stream delivers what was received, and then fails with
// ErrTunnel and the reason. It does not wait.
func (c *Conn) GiveUp(reason error) { c.fail(reason, true, goAwayOK) }

// GoAway tells the peer that no further streams are taken (section 2.6.6): those that are on
// their way fail with ErrRefused there, and it knows that nothing was done for them. Streams
// that have arrived stay open.
func (c *Conn) GoAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.leaving {
		c.leaving, c.leftID = true, c.lastID
		c.send.enqueueUnbounded(control{kind: kindGoAway, streamID: c.leftID, value: goAwayOK})
	}
}

// Done is closed when the tunnel is gone; Err then returns why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns nil while the tunnel works, then ErrTunnel wrapping the reason.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// LocalAddr returns the transport's local address, or a placeholder if it has none.
func (c *Conn) LocalAddr() net.Addr {
	if t, ok := c.transport.(interface{ LocalAddr() net.Addr }); ok {
		return t.LocalAddr()
	}
	return noAddr{}
}

// RemoteAddr returns the transport's remote address, or a placeholder.
func (c *Conn) RemoteAddr() net.Addr {
	if t, ok := c.transport.(interface{ RemoteAddr() net.Addr }); ok {
		return t.RemoteAddr()
	}
	return noAddr{}
}

// noAddr is the address of a transport without one.
type noAddr struct{}

func (noAddr) Network() string { return "spdy" }
func (noAddr) String() string  { return "spdy" }

// Close ends the tunnel: every stream fails with ErrTunnel, what was queued and a
// GOAWAY are written within half a second, the transport is closed. When it returns
// the tunnel's goroutines have ended.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed, true, goAwayOK)
	c.loops.Wait()
	return nil
}

// fail ends the tunnel for the given reason; the first call counts. With polite
// the peer is told by GOAWAY first; without, the transport is broken already.
func (c *Conn) fail(reason error, polite bool, status uint32) {
	if errors.Is(reason, io.EOF) { // loss must not pass for an end
		reason = io.ErrUnexpectedEOF
	}
	err := tunnelError(reason)
	streams, unaccepted, lastID, first := c.takeAll(err)
	if !first {
		return
	}
	c.beat.stop()
	c.stallWatch.stop()
	for _, s := range streams {
		c.send.abort(s, err)
		if errors.Is(reason, net.ErrClosed) {
			s.in.abort(err)
		} else {
			s.in.finish(err)
		}
		s.loss.happen(err)
	}
	for _, s := range unaccepted {
		s.in.abort(err)
	}
	if !polite {
		c.send.close()
		c.closeTransport()
		return
	}
	c.send.close(control{kind: kindGoAway, streamID: lastID, value: status})
	time.AfterFunc(closeGrace, c.closeTransport)
}

func (c *Conn) closeTransport() {
	c.hangUp.Do(func() { c.transport.Close() })
}

// takeAll sets err and empties the map, unless that was done before.
func (c *Conn) takeAll(err error) (streams, unaccepted []*Stream, lastID uint32, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, nil, 0, false
	}
	c.err = err
	close(c.done)
	c.open = [2]int{}
	streams = slices.Collect(maps.Values(c.streams))
	clear(c.streams)
	unaccepted, c.backlog = c.backlog, nil
	if lastID = c.lastID; c.leaving {
		lastID = c.leftID
	}
	return streams, unaccepted, lastID, true
}

// writeLoop writes batches until the sender is closed, and closes the transport.
func (c *Conn) writeLoop() {
	defer c.loops.Done()
	defer c.closeTransport()
	defer c.send.settle()
	for {
		batch, s, limit := c.send.next()
		if batch == nil && s == nil {
			return
		}
		c.writeStall.Store(c.now())
		var err error
		if s == nil {
			_, err = c.transport.Write(batch)
		} else {
			err = c.writeSpliced(batch, s, limit)
		}
		c.writeStall.Store(0)
		if err != nil {
			c.fail(err, false, 0)
			return
		}
	}
}

// writeSpliced writes a batch, and behind it a frame of up to limit bytes of the socket that s
// splices from.
func (c *Conn) writeSpliced(batch []byte, s *Stream, limit int) error {
	n, err := c.cfg.Splicer.Load(s.out.splice.src, limit)
	c.send.spliced(s, n, err)
	if n > 0 {
		return c.cfg.Splicer.Send(appendDataHeader(batch, s.id, 0, n))
	}
	if len(batch) > 0 {
		_, err = c.transport.Write(batch)
		return err
	}
	return nil
}

// finished notes that the stream has ended in one direction. After both it is
// gone from the tunnel.
func (c *Conn) finished(s *Stream, which side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.done |= which; s.done == receiving|sending {
		c.remove(s)
	}
}

// remove takes the stream out of the map and reports whether it was in it; c.mu is held.
func (c *Conn) remove(s *Stream) bool {
	if c.streams[s.id] != s {
		return false
	}
	delete(c.streams, s.id)
	c.open[s.id&1]--
	return true
}

// drop takes the stream out of the tunnel and tells the peer by RST_STREAM,
// unless both directions had ended before.
func (c *Conn) drop(s *Stream, status uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.remove(s) {
		c.send.enqueueUnbounded(control{kind: kindRstStream, streamID: s.id, value: status})
	}
}
