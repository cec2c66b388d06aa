package portforward

import (
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/portforward/spdy"
)

const (
	// pairTime is how long a stream waits for the one that belongs to it.
	pairTime = 30 * time.Second
	// maxUnpaired is how many may wait in a tunnel.
	maxUnpaired = 256
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
type pairs struct {
	mu      sync.Mutex
	closed  bool
	waiting map[string]*pair
}

// takeStock does what a stream in the stock protocol asks for, or resets it alone.
func (s *session) takeStock(stream *spdy.Stream) {
	_, ok := portHeader(stream)
	id := requestID(stream)
	if !ok || id == "" || len(id) > maxRequestID {
		stream.Reset()
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
// many, of its kind or at all, is reset.
func (p *pairs) add(id string, stream *spdy.Stream) *pair {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	if w == nil {
		if p.closed || len(p.waiting) >= maxUnpaired {
			stream.Reset()
			return nil
		}
		w = p.wait(id)
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
	return w
}

// wait makes a new pair; p.mu is held.
func (p *pairs) wait(id string) *pair {
	if p.waiting == nil {
		p.waiting = make(map[string]*pair)
	}
	w := &pair{}
	w.timer = time.AfterFunc(pairTime, func() { p.expire(id, w) })
	p.waiting[id] = w
	return w
}

// expire gives a pair up whose other stream has not come.
func (p *pairs) expire(id string, w *pair) {
	p.mu.Lock()
	overdue := p.waiting[id] == w
	if overdue {
		delete(p.waiting, id)
	}
	p.mu.Unlock()
	switch {
	case !overdue:
	case w.data != nil:
		w.data.Reset()
	default:
		sayLast(w.text, "timed out waiting for streams")
	}
}

// close forgets all of them; their tunnel is gone.
func (p *pairs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, w := range p.waiting {
		w.timer.Stop()
	}
	p.waiting = nil
}

// stockLine is a connection in the stock protocol: its data stream, and the stream
// for the words of an error.
type stockLine struct {
	*spdy.Stream
	text *spdy.Stream
	fin  atomic.Bool
}

func (l *stockLine) afterLoss(f func()) { l.AfterLoss(f) }
func (l *stockLine) finished() bool     { return l.fin.Load() }

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
