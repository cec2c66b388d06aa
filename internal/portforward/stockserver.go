package portforward

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// serverPing is how often a frame goes to a stock client. An answer would mean
	// nothing, for with a stalled stream it does not answer; but writing to a client that
	// is gone makes the proxies on the way notice.
	serverPing = 30 * time.Second
	// pairTime is how long a stream waits for the one that belongs to it.
	pairTime = 30 * time.Second
	// maxUnpaired is how many may wait in a tunnel. Stock clients open the error
	// streams of all connections that come at once before the first data stream, so
	// it is half of the streams that a tunnel may have.
	maxUnpaired = 1024
	// maxRefused is how many streams' names are remembered whose other half was
	// refused: more than that cannot be open.
	maxRefused = 2048
	// maxRequestID is how long the name may be by which streams find each other.
	maxRequestID = 256
)

// pair is a connection in the stock protocol, of which one stream may be missing.
type pair struct {
	data, errorStream *spdy.Stream
	timer             *time.Timer // while one is missing
}

// pairs are the streams of a tunnel that wait for each other. The zero value is
// ready.
//
// A data stream that waits must not hold up the tunnel, through which the other one has yet to
// come: it is expendable while it waits. The names of refused streams are remembered, since a
// client that does not know of the refusal yet opens the other stream all the same.
type pairs struct {
	mu      sync.Mutex
	closed  bool
	waiting map[string]*pair
	refused map[string]bool
	order   []string // of refused, the oldest first
}

// stockServer is a tunnel in the stock protocol at the server's end.
type stockServer struct {
	*tunnel.Server
	pairs pairs
}

func newStockServer(transport io.ReadWriteCloser, cfg tunnel.ServerConfig) *stockServer {
	s := &stockServer{}
	cfg.SPDY.Probe, cfg.SPDY.PingInterval = true, serverPing
	cfg.Accept = s.accept
	s.Server = tunnel.NewServer(transport, cfg)
	return s
}

// Run implements serverTunnel.
func (s *stockServer) Run(ctx context.Context) error {
	defer s.pairs.close()
	return s.Server.Run(ctx)
}

// accept handles a stream that a stock client has opened. One that makes no sense is reset,
// and no other is touched.
func (s *stockServer) accept(stream *spdy.Stream) {
	id := requestID(stream)
	if id == "" || len(id) > maxRequestID {
		stream.Reset()
		return
	}
	if _, ok := tunnel.ParsePort(stream.Headers().Get("port")); !ok {
		s.pairs.refuse(id, stream)
		return
	}
	if p := s.pairs.add(id, stream); p != nil {
		port, _ := tunnel.ParsePort(p.data.Headers().Get("port"))
		s.Serve(&stockServerConn{Stream: p.data, errorStream: p.errorStream}, target.TCPPort(port))
	}
}

// requestID is what the two streams of a connection have in common, "" if that
// cannot be told. Clients that do not name it open the error stream first and the
// data stream right behind it.
func requestID(stream *spdy.Stream) string {
	kind, id := stream.Headers().Get("streamType"), stream.Headers().Get("requestID")
	switch {
	case kind != "data" && kind != "error":
		return ""
	case id != "":
		return id
	case kind == "data":
		return strconv.FormatInt(int64(stream.ID())-2, 10)
	}
	return strconv.FormatInt(int64(stream.ID()), 10)
}

// add returns the pair that the stream completes, or keeps it waiting. One too
// many, of its kind or at all, is reset, and so is one whose other half was refused.
func (p *pairs) add(id string, stream *spdy.Stream) *pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	switch {
	case p.refused[id]:
		stream.Reset()
		return nil
	case w == nil && (p.closed || len(p.waiting) >= maxUnpaired):
		p.remember(id)
		stream.Reset()
		return nil
	case w == nil:
		w = p.wait(id, stream)
	}
	half := &w.data
	if stream.Headers().Get("streamType") == "error" {
		half = &w.errorStream
	}
	if *half != nil {
		stream.Reset()
		return nil
	}
	*half = stream
	if w.data == nil || w.errorStream == nil {
		return nil
	}
	w.timer.Stop()
	delete(p.waiting, id)
	w.data.SetExpendable(false)
	return w
}

// wait makes a new pair of which one stream is here; p.mu is held.
func (p *pairs) wait(id string, stream *spdy.Stream) *pair {
	if p.waiting == nil {
		p.waiting = make(map[string]*pair)
	}
	w := &pair{}
	w.timer = time.AfterFunc(pairTime, func() { p.giveUp(id, w) })
	p.waiting[id] = w
	stream.SetExpendable(true)
	stream.AfterLoss(func() { p.giveUp(id, w) })
	return w
}

// giveUp ends a pair whose other stream has not come in time, or one of whose streams
// was reset meanwhile.
func (p *pairs) giveUp(id string, w *pair) {
	p.mu.Lock()
	alone := p.waiting[id] == w
	if alone {
		delete(p.waiting, id)
		w.timer.Stop()
		p.remember(id)
	}
	p.mu.Unlock()
	switch {
	case !alone:
	case w.data != nil:
		w.data.Reset()
	default:
		endWith(w.errorStream, "timed out waiting for streams")
	}
}

// refuse resets a stream, and the other half too, whether it waits or is yet to come.
func (p *pairs) refuse(id string, stream *spdy.Stream) {
	stream.Reset()
	p.mu.Lock()
	w := p.waiting[id]
	p.remember(id)
	p.mu.Unlock()
	if w != nil {
		p.giveUp(id, w)
	}
}

// remember notes that a half was refused; p.mu is held.
func (p *pairs) remember(id string) {
	if p.closed || p.refused[id] {
		return
	}
	if p.refused == nil {
		p.refused = make(map[string]bool)
	}
	id = strings.Clone(id) // what it is a part of may be large
	p.refused[id] = true
	p.order = append(p.order, id)
	if len(p.order) > maxRefused {
		delete(p.refused, p.order[0])
		p.order = p.order[1:]
	}
}

// close forgets all of them; their tunnel is gone.
func (p *pairs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, w := range p.waiting {
		w.timer.Stop()
		for _, half := range []*spdy.Stream{w.data, w.errorStream} {
			if half != nil {
				half.Reset() // which gives back what it holds
			}
		}
	}
	p.waiting, p.refused, p.order = nil, nil, nil
}

// stockServerConn is a connection in the stock protocol at the server's end.
type stockServerConn struct {
	*spdy.Stream // of data
	errorStream  *spdy.Stream
	sentEOF      atomic.Bool
}

// SentEOF implements tunnel.ServerConn.
func (c *stockServerConn) SentEOF() bool { return c.sentEOF.Load() }

// CloseWrite implements pipe.Conn.
func (c *stockServerConn) CloseWrite() error {
	c.sentEOF.Store(true)
	return c.Stream.CloseWrite()
}

// Fail implements tunnel.ServerConn. The text goes first: clients look for it when the data
// stream has ended.
func (c *stockServerConn) Fail(_ error, text string) {
	endWith(c.errorStream, text)
	c.Reset()
}

// End implements tunnel.ServerConn. A failure is told by the reset of the data stream alone: a
// text would make kubectl end its whole session because of one connection.
func (c *stockServerConn) End(error) { c.errorStream.Close() }

// endWith writes a text to an error stream and ends it. If the client takes nothing, that
// waits for no longer than its tunnel lasts.
func endWith(errorStream *spdy.Stream, text string) {
	_, _ = io.WriteString(errorStream, text)
	errorStream.Close()
}
