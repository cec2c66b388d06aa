package spdy

import (
	"math"
	"net"
	"os"
	"slices"
	"sync"
)

const (
	// chunkSize is the most that one stream sends before it is another's turn,
	// and the largest DATA frame that this package writes.
	chunkSize = 32 << 10
	// batchSize is how much data waits for one write to the transport.
	batchSize = 128 << 10
	// controlLimit is how much may wait when the peer has stopped reading but
	// goes on sending what wants an answer. Data leaves most of it free.
	controlLimit = 1 << 20
	// answerStep is in what steps the tunnel's Share is charged for answers that wait
	// beyond a batch.
	answerStep = 64 << 10
	// initialWindow is what a stream and the session may send before the peer
	// has said anything about it (sections 2.6.4 and 2.6.8).
	initialWindow = 64 << 10
	// unlimited is the window of a tunnel without flow control.
	unlimited = math.MaxInt64 / 2
)

// outbox is the sending half of a stream; the sender's mutex guards it.
type outbox struct {
	pending  []byte // of the Write that waits: what has not been taken yet
	draw     *draw  // the Draw that waits, or nil
	queued   bool   // the stream is in sender.ready or sender.drawing
	window   int64
	err      error // why there is no more sending; nil while open
	fin      bool  // sent
	cond     sync.Cond
	deadline deadline
	waiting  waiter // who reserves room
}

// sender gathers the frames of all streams of a tunnel into batches, one write
// to the transport each. A control frame joins the batch at once. Data joins
// while the batch has room; after that streams wait in ready, and each in turn
// gives one chunk to the next batch. What is drawn from sockets goes between batches, a
// frame of one stream each time.
type sender struct {
	mu       sync.Mutex
	work     sync.Cond // the write loop waits here
	out      []byte    // the batch being gathered
	spare    []byte    // the batch being written, then the memory of the next
	ready    []*Stream // have pending octets and a window
	drawing  []*Stream // have a socket to draw from and a window
	last     *Stream   // whose DATA frame ends out, or nil
	lastAt   int       // where that frame begins
	corked   int
	closed   bool
	share    *Share
	waits    int // bytes charged to share for answers in out
	leaves   int // the same for spare, which is being written
	headers  headerEncoder
	window   int64 // of the session
	starting int64 // window of a new stream
}

func (q *sender) init(flowControl bool, share *Share) {
	q.work.L = &q.mu
	q.share = share
	q.window, q.starting = unlimited, unlimited
	if flowControl {
		q.window, q.starting = initialWindow, initialWindow
	}
}

func (q *sender) attach(s *Stream) {
	s.out.cond.L = &q.mu
	s.out.deadline = deadline{mu: &q.mu, wake: s.out.cond.Broadcast}
	s.out.waiting.wake = func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		s.out.cond.Broadcast()
	}
	q.mu.Lock()
	s.out.window = q.starting
	q.mu.Unlock()
}

// write sends p as DATA frames. It returns once all of p is in a batch, which
// is bounded, or with what came between.
func (q *sender) write(s *Stream, p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := &s.out
	o.pending = p
	defer func() {
		o.pending = nil
		q.unqueue(s)
	}()
	for {
		switch {
		case o.err != nil:
			return len(p) - len(o.pending), o.err
		case o.deadline.passed:
			return len(p) - len(o.pending), os.ErrDeadlineExceeded
		case len(o.pending) == 0:
			return len(p), nil
		}
		if q.enqueue(s); len(o.pending) > 0 {
			o.cond.Wait()
		}
	}
}

// reserve waits until the tunnel's Share has room for n octets, or for what comes
// between.
func (q *sender) reserve(s *Stream, n int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	share, o := s.conn.cfg.Share, &s.out
	defer share.giveUp(&o.waiting)
	for {
		switch {
		case o.err != nil:
			return o.err
		case o.deadline.passed:
			return os.ErrDeadlineExceeded
		case share.takeOrWait(n, &o.waiting):
			return nil
		}
		o.cond.Wait()
	}
}

// enqueue lets a stream with something to send take its turn, at once if nobody
// is before it.
func (q *sender) enqueue(s *Stream) {
	if !s.out.queued && s.out.window > 0 {
		s.out.queued = true
		if s.out.draw != nil {
			q.drawing = append(q.drawing, s)
		} else {
			q.ready = append(q.ready, s)
		}
	}
	q.gather()
	q.work.Signal()
}

// unqueue takes a stream that gives up out of its queue.
func (q *sender) unqueue(s *Stream) {
	if s.out.queued {
		s.out.queued = false
		same := func(other *Stream) bool { return other == s }
		q.ready = slices.DeleteFunc(q.ready, same)
		q.drawing = slices.DeleteFunc(q.drawing, same)
	}
}

// gather moves pending octets into the batch until it is full: one chunk per
// stream and turn.
func (q *sender) gather() {
	for len(q.ready) > 0 && len(q.out) < batchSize && q.window > 0 {
		s := q.ready[0]
		q.take(s)
		if o := &s.out; len(o.pending) > 0 && o.window > 0 && o.err == nil {
			copy(q.ready, q.ready[1:])
			q.ready[len(q.ready)-1] = s
			continue
		}
		s.out.queued = false
		q.ready = behind(q.ready)
	}
}

// behind is queue without its first stream.
func behind(queue []*Stream) []*Stream {
	last := copy(queue, queue[1:])
	queue[last] = nil
	return queue[:last]
}

// take moves one chunk of the stream into the batch.
func (q *sender) take(s *Stream) {
	o := &s.out
	n := int(min(int64(len(o.pending)), chunkSize, o.window, q.window))
	if n <= 0 || o.err != nil {
		return
	}
	if !q.extend(s, o.pending[:n]) {
		q.last, q.lastAt = s, len(q.out)
		q.out = appendDataHeader(q.out, s.id, 0, n)
		q.out = append(q.out, o.pending[:n]...)
	}
	o.window -= int64(n)
	q.window -= int64(n)
	if o.pending = o.pending[n:]; len(o.pending) == 0 {
		o.cond.Signal()
	}
}

// extend adds p to the frame that ends the batch, if that is one of s and stays
// small: many little writes make one frame.
func (q *sender) extend(s *Stream, p []byte) bool {
	if q.last != s {
		return false
	}
	h := header(q.out[q.lastAt:])
	if h.length()+len(p) > chunkSize {
		return false
	}
	appendDataHeader(q.out[:q.lastAt], s.id, 0, h.length()+len(p))
	q.out = append(q.out, p...)
	return true
}

// must queues a control frame that has to come through. There are few of these:
// one RST_STREAM per stream, one WINDOW_UPDATE per half window of data.
func (q *sender) must(f control) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.append(f)
}

// control queues an answer to the peer. It fails once the peer has left too many
// unread.
func (q *sender) control(f control) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.affords() {
		return ErrCongested
	}
	q.append(f)
	return nil
}

// affords says whether one more answer may wait, and charges for those that do.
func (q *sender) affords() bool {
	if q.closed {
		return true // and is not queued
	}
	for q.waits < len(q.out)-batchSize {
		if !q.share.take(answerStep, need) {
			return false
		}
		q.waits += answerStep
	}
	return len(q.out) <= controlLimit
}

// opening queues the frame that opens or answers a stream, its block made of
// text. Frames with a header block must go out in the order of their
// compression, hence under one lock.
func (q *sender) opening(f control, text []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.affords() {
		return ErrCongested
	}
	f.block = q.headers.append(nil, text)
	q.append(f)
	return nil
}

func (q *sender) append(f control) {
	if q.closed {
		return
	}
	q.out = f.append(q.out)
	q.last = nil
	q.work.Signal()
}

// finish ends the stream's sending with FIN, on its last DATA frame if that has
// not left yet. Later writes fail with net.ErrClosed. It returns what ended the
// sending before, if anything did; or errCut, without a FIN, if it cuts a write
// short: half a message must not look like a whole one.
func (q *sender) finish(s *Stream) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.out.err != nil {
		return s.out.err
	}
	q.end(s, net.ErrClosed)
	if len(s.out.pending) > 0 || s.out.draw != nil {
		return errCut
	}
	if q.last != s {
		q.last, q.lastAt = s, len(q.out)
		q.out = appendDataHeader(q.out, s.id, 0, 0)
	}
	q.out[q.lastAt+4] |= flagFin
	s.out.fin = true
	q.last = nil
	q.work.Signal()
	return nil
}

func (q *sender) sentFin(s *Stream) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return s.out.fin
}

// abort makes writes fail with err; the first reason counts.
func (q *sender) abort(s *Stream, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.out.err == nil {
		q.end(s, err)
	}
}

func (q *sender) end(s *Stream, err error) {
	s.out.err = err
	s.out.deadline.stop()
	s.out.cond.Broadcast()
}

// credit widens the window of a stream, or of the session if s is nil. It says
// whether the window stays within 31 bits (section 2.6.8).
func (q *sender) credit(s *Stream, delta int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s == nil {
		q.window += delta
		q.work.Signal()
		return q.window <= maxWindow
	}
	s.out.window += delta
	if len(s.out.pending) > 0 || s.out.draw != nil {
		q.enqueue(s)
	}
	return s.out.window <= maxWindow
}

// restart applies the peer's SETTINGS_INITIAL_WINDOW_SIZE: to the streams to
// come, and by the difference to those that are open (section 2.6.8).
func (q *sender) restart(size int64) (delta int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delta, q.starting = size-q.starting, size
	return delta
}

// cork holds batches back until uncork; pairs may nest. A full batch goes out
// all the same.
func (q *sender) cork(by int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.corked += by
	q.work.Signal()
}

// close lets the write loop end after the batch that last closes.
func (q *sender) close(last ...control) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range last {
		q.append(f)
	}
	q.closed = true
	q.work.Signal()
}

// settle gives back what was charged, once nothing is written any more.
func (q *sender) settle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.share.release(q.waits + q.leaves)
	q.waits, q.leaves = 0, 0
}

// batch waits for something to write and returns it: octets, and behind them up to limit
// of a socket of s, if s is not nil. It returns nil and nil when the sender is closed and
// everything was written. The octets are valid until the next call.
func (q *sender) batch() (out []byte, s *Stream, limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.due() {
			if out, s, limit = q.swap(); len(out) > 0 || s != nil {
				return out, s, limit
			}
		}
		if q.closed {
			return nil, nil, 0
		}
		q.work.Wait()
	}
}

// swap begins a new batch and returns the one so far.
func (q *sender) swap() (out []byte, s *Stream, limit int) {
	if cap(q.spare) > 2*batchSize+chunkSize { // a burst of control frames made it
		q.spare = nil
	}
	q.out, q.spare = q.spare[:0], q.out
	q.share.release(q.leaves)
	q.waits, q.leaves = 0, q.waits
	q.last = nil
	s, limit = q.turn()
	q.gather()
	return q.spare, s, limit
}

// due says whether a write is to be made now.
func (q *sender) due() bool {
	if len(q.out) == 0 {
		q.gather()
	}
	some := len(q.out) > 0 || len(q.drawing) > 0 && q.window > 0
	return some && (q.corked == 0 || len(q.out) >= batchSize || q.closed)
}
