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
	// batchSize is how much data waits for one write to the transport, unless Config.Batch says otherwise.
	batchSize = 128 << 10
	// controlLimit is how much may wait when the peer has stopped reading but
	// still sends what wants an answer. Data leaves most of it free.
	controlLimit = 1 << 20
	// answerStep is in what steps the tunnel's Share is charged for answers that wait
	// beyond a batch and freeAnswers.
	answerStep = 64 << 10
	// freeAnswers is how much of them is not charged: where streams have used up the Share,
	// all that a peer may open besides can be refused still.
	freeAnswers = 128 << 10
	// initialWindow is what a stream and the session may send before the peer
	// has said anything about it (sections 2.6.4 and 2.6.8).
	initialWindow = 64 << 10
	// unlimited is the window of a tunnel without flow control.
	unlimited = math.MaxInt64 / 2
)

// LargeBatch is a Config.Batch for ways with many processes on them, all of which have less to do when
// bytes come in large bursts.
const LargeBatch = 512 << 10

// sendState is the sending half of a stream; the sender's mutex guards it.
type sendState struct {
	pending  []byte  // of the Write that waits: what has not been taken yet
	splice   *splice // the SpliceFrom that waits, or nil
	queued   bool    // the stream is in sender.ready or sender.splicing
	window   int64
	opened   uint64 // how many batches leave before the frame that opens the stream
	err      error  // why there is no more sending; nil while open
	fin      bool   // sent
	cond     sync.Cond
	deadline deadline
	waiting  waiter // who reserves room
}

// stopped returns why whoever sends must stop now, or nil.
func (o *sendState) stopped() error {
	if o.err == nil && o.deadline.passed {
		return os.ErrDeadlineExceeded
	}
	return o.err
}

// sender gathers the frames of all streams of a tunnel into batches, one write to the
// transport each. A control frame joins the batch at once. Data joins while the batch has
// room; after that streams wait in ready, and each in turn gives one chunk to the next batch.
// What is spliced from sockets goes between batches, a frame of one stream each time. Datagrams
// go ahead of both, as long as those get a turn now and then.
type sender struct {
	mu       sync.Mutex
	work     sync.Cond // the write loop waits here
	out      []byte    // the batch being gathered
	spare    []byte    // the batch being written, then the memory of the next
	ready    []*Stream // have pending bytes and a window
	splicing []*Stream // have a socket to splice from and a window
	last     *Stream   // whose DATA frame ends out, or nil
	lastAt   int       // where that frame begins
	batches  uint64    // how many have left
	batch    int       // Config.Batch
	corked   int
	closed   bool
	share    *Share
	waits    int // bytes charged to share for answers in out
	leaves   int // the same for spare, which is being written
	headers  headerEncoder
	window   int64 // of the session
	starting int64 // window of a new stream

	datagrams datagrams
}

func (q *sender) init(cfg Config) {
	q.work.L = &q.mu
	q.share, q.batch = cfg.Share, cfg.Batch
	q.window, q.starting = unlimited, unlimited
	if cfg.FlowControl {
		q.window, q.starting = initialWindow, initialWindow
	}
}

// enqueue lets a stream with something to send take its turn, at once if nobody is before it.
func (q *sender) enqueue(s *Stream) {
	if !s.out.queued && s.out.window > 0 {
		s.out.queued = true
		if s.out.splice != nil {
			q.splicing = append(q.splicing, s)
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
		q.splicing = slices.DeleteFunc(q.splicing, same)
	}
}

// gather moves pending bytes into the batch until it is full: one chunk per stream and turn.
func (q *sender) gather() {
	for len(q.ready) > 0 && len(q.out) < q.batch && q.window > 0 {
		s := q.ready[0]
		o := &s.out
		if n := min(int64(len(o.pending)), chunkSize, o.window, q.window); n > 0 && o.err == nil {
			q.appendData(s, o.pending[:n])
			o.window -= n
			q.window -= n
			if o.pending = o.pending[n:]; len(o.pending) == 0 {
				o.cond.Signal()
			}
		}
		again := len(o.pending) > 0 && o.window > 0 && o.err == nil
		if q.ready = slices.Delete(q.ready, 0, 1); again {
			q.ready = append(q.ready, s)
		}
		o.queued = again
	}
}

// appendData adds p to the batch: to the frame that ends it, if that is one of s and stays
// small, so that many little writes make one frame, or else as a new one.
func (q *sender) appendData(s *Stream, p []byte) {
	n := len(p)
	if q.last == s {
		if n += frameHeader(q.out[q.lastAt:]).length(); n <= chunkSize {
			appendDataHeader(q.out[:q.lastAt], s.id, 0, n)
			q.out = append(q.out, p...)
			return
		}
	}
	q.last, q.lastAt = s, len(q.out)
	q.out = append(appendDataHeader(q.out, s.id, 0, len(p)), p...)
}

// enqueueUnbounded queues a control frame that must get through. There are few of these: one
// RST_STREAM per stream, one WINDOW_UPDATE per half window of data.
func (q *sender) enqueueUnbounded(f control) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.append(f)
}

// enqueueControl queues an answer to the peer. It fails once the peer has left too many
// unread.
func (q *sender) enqueueControl(f control) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.affords() {
		return ErrCongested
	}
	q.append(f)
	return nil
}

// affords reports whether one more answer may wait, and charges for those that do.
func (q *sender) affords() bool {
	if q.closed {
		return true // and is not queued
	}
	for q.waits < len(q.out)-q.batch-freeAnswers {
		if !q.share.take(answerStep, need) {
			return false
		}
		q.waits += answerStep
	}
	return len(q.out) <= controlLimit
}

// enqueueHeaders queues a frame with a header block, which is made of text. Such frames must go
// out in the order of their compression, hence under one lock. It returns how many batches leave before the frame does.
func (q *sender) enqueueHeaders(f control, text []byte) (before uint64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.affords() {
		return 0, ErrCongested
	}
	f.block = q.headers.append(nil, text)
	q.append(f)
	return q.batches, nil
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
	if len(s.out.pending) > 0 || s.out.splice != nil {
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
	if len(s.out.pending) > 0 || s.out.splice != nil {
		q.enqueue(s)
	}
	return s.out.window <= maxWindow
}

// setInitialWindow applies the peer's SETTINGS_INITIAL_WINDOW_SIZE to the streams to come. By
// the difference it changes those that are open, too (section 2.6.8).
func (q *sender) setInitialWindow(size int64) (delta int64) {
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
	q.share.Release(q.waits + q.leaves)
	q.waits, q.leaves = 0, 0
}

// next waits for something to write and returns it: bytes, and behind them up to limit of a
// socket of s, if s is not nil. It returns nil and nil when the sender is closed and everything
// was written. The bytes are valid until the next call.
func (q *sender) next() (out []byte, s *Stream, limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.datagrams.mayGo() {
			if out := q.takeDatagrams(); len(out) > 0 {
				return out, nil, 0
			}
		}
		if len(q.out) == 0 {
			q.gather()
		}
		some := len(q.out) > 0 || len(q.splicing) > 0 && q.window > 0
		if some && (q.corked == 0 || len(q.out) >= q.batch || q.closed) {
			if out, s, limit = q.swap(); len(out) > 0 || s != nil {
				q.datagrams.ahead = 0
				return out, s, limit
			}
		}
		switch {
		case len(q.datagrams.queue) > 0: // nobody else has anything
			q.datagrams.ahead = 0
		case q.closed:
			return nil, nil, 0
		default:
			q.work.Wait()
		}
	}
}

// swap begins a new batch and returns the one so far.
func (q *sender) swap() (out []byte, s *Stream, limit int) {
	if cap(q.spare) > 2*q.batch+chunkSize { // a burst of control frames made it
		q.spare = nil
	}
	q.out, q.spare = q.spare[:0], q.out
	q.batches++
	q.share.Release(q.leaves)
	q.waits, q.leaves = 0, q.waits
	q.last = nil
	s, limit = q.nextSplice()
	q.gather()
	return q.spare, s, limit
}
