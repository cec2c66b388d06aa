package portforward

import (
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

const (
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
	data, text *spdy.Stream
	timer      *time.Timer // while one is missing
}

// pairs are the streams of a tunnel that wait for each other. The zero value is
// ready.
//
// A data stream that waits must not hold up the tunnel, in which the other one is yet
// to come: it is expendable until it is taken. What is refused is remembered by name,
// since a client that has not heard of it yet opens the other stream all the same.
type pairs struct {
	mu      sync.Mutex
	closed  bool
	waiting map[string]*pair
	refused map[string]bool
	order   []string // of refused, the oldest first
}

// takeStock does what a stream in the stock protocol asks for, or resets it alone.
func (s *session) takeStock(stream *spdy.Stream) {
	id := requestID(stream)
	if id == "" || len(id) > maxRequestID {
		stream.Reset()
		return
	}
	if _, ok := portHeader(stream); !ok {
		s.pairs.refuse(id, stream)
		return
	}
	if p := s.pairs.add(id, stream); p != nil {
		port, _ := portHeader(p.data)
		s.begin(&stockLine{Stream: p.data, text: p.text}, port)
	}
}

func portHeader(stream *spdy.Stream) (port uint16, ok bool) {
	n, err := strconv.ParseUint(stream.Headers().Get("port"), 10, 16)
	return uint16(n), err == nil && n > 0
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
	place := &w.data
	if stream.Headers().Get("streamType") == "error" {
		place = &w.text
	}
	if *place != nil {
		stream.Reset()
		return nil
	}
	*place = stream
	if w.data == nil || w.text == nil {
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
		sayLast(w.text, "timed out waiting for streams")
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
		for _, half := range []*spdy.Stream{w.data, w.text} {
			if half != nil {
				half.Reset() // which gives back what it holds
			}
		}
	}
	p.waiting, p.refused, p.order = nil, nil, nil
}

// stockLine is a connection in the stock protocol: its data stream, and the stream
// for the words of an error.
type stockLine struct {
	*spdy.Stream
	text *spdy.Stream
	fin  atomic.Bool
}

func (l *stockLine) finished() bool { return l.fin.Load() }

// CloseWrite implements pipe.Conn.
func (l *stockLine) CloseWrite() error {
	l.fin.Store(true)
	return l.Stream.CloseWrite()
}

// fail says the words first: clients look for them when the data stream has ended.
func (l *stockLine) fail(_ error, text string) {
	sayLast(l.text, text)
	l.Reset()
}

// end says nothing about a failure, which the reset of the data stream tells: words
// would make kubectl end its whole session for one connection's sake.
func (l *stockLine) end(error) {
	l.text.Close()
}

// sayLast writes to an error stream and ends it. A client that takes nothing holds
// nothing up for longer than its tunnel lasts.
func sayLast(text *spdy.Stream, words string) {
	_, _ = io.WriteString(text, words)
	text.Close()
}
