package spdy

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

const (
	smallChunk  = 4 << 10
	mediumChunk = 16 << 10
	largeChunk  = 64 << 10
	// smallPayload is the most that goes to a small chunk. Half of a chunk or
	// more is then in use, and what a stream really holds is at most twice
	// what its limit counts.
	smallPayload = smallChunk / 2

	// maxStreamWindow is how far a stream's window grows, with flow control, as
	// long as its reader keeps up: 160 MB/s at 50 ms of round trip.
	maxStreamWindow = 8 << 20
	// maxGrowth is by how much all windows of a tunnel grow together.
	maxGrowth = 64 << 20

	// maxExpendable is how many bytes wait in all expendable streams of a tunnel
	// together.
	maxExpendable = 32 << 20
)

// chunk is a piece of a stream's receive buffer: buf[r:w] waits to be read,
// buf[w:] can be filled.
type chunk struct {
	buf  []byte
	r, w int
}

// chunkPool recycles the chunks of one tunnel, and knows how much the windows of its
// streams have grown.
type chunkPool struct {
	share                *Share
	small, medium, large sync.Pool
	growth               atomic.Int64
	expendable           atomic.Int64 // bytes that wait in expendable streams
}

// chunkFor returns how large a chunk is for a payload of which n bytes are still to come to a
// stream that may hold limit.
func chunkFor(n, limit int) int {
	switch {
	case n <= smallPayload:
		return smallChunk
	case limit < largeChunk:
		return mediumChunk
	}
	return largeChunk
}

// of returns the pool of chunks of a size.
func (p *chunkPool) of(size int) *sync.Pool {
	switch size {
	case smallChunk:
		return &p.small
	case mediumChunk:
		return &p.medium
	}
	return &p.large
}

// maxUnacked is how many bytes may be read without the peer hearing of it. Through a
// slow network half of a large window would take seconds, which look like a standstill.
const maxUnacked = 1 << 20

// receiveBuffer is the receiving half of a stream: a bounded queue between the tunnel's
// read loop, which is its only writer, and the stream's reader.
type receiveBuffer struct {
	pool  *chunkPool
	limit int // bytes that may wait

	mu         sync.Mutex
	more       sync.Cond // the reader waits here for bytes or an end
	room       sync.Cond // the read loop waits here for space
	chunks     []*chunk
	filling    *chunk // the last of chunks while the read loop writes into it
	buffered   int    // bytes waiting in chunks
	end        error  // what follows them: io.EOF, ErrReset, ErrTunnel; nil while open
	closed     bool   // the stream's owner takes no more
	expendable bool   // rather reset than waited for when full
	deadline   deadline

	base    int    // what the stream costs whatever it holds
	memory  int    // bytes in chunks
	charged int    // to the tunnel's Share; see settle
	waiting waiter // the read loop, for the Share to have room

	// Flow control (section 2.6.8); unused without.
	flows   bool
	window  int // bytes the peer may still send
	unacked int // bytes consumed since the last WINDOW_UPDATE
	grown   int // how much limit has grown
}

func (b *receiveBuffer) init(pool *chunkPool, limit int) {
	b.pool, b.limit, b.window = pool, limit, limit
	b.waiting.wake = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.room.Broadcast()
	}
	b.more.L, b.room.L = &b.mu, &b.mu
	b.deadline = deadline{mu: &b.mu, wake: b.more.Broadcast}
}

// space returns where the next of n bytes go: at least one byte, at most n.
// Beyond its length the slice has capacity that may be scribbled on. Without
// room it calls stalled and waits, and it returns nil once nobody will read
// what comes.
func (b *receiveBuffer) space(n int, stalled func(bool)) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.end == nil && !b.closed && !b.prepare(n) {
		if b.expendable {
			break
		}
		stalled(true)
		b.room.Wait()
		stalled(false)
	}
	if !b.flows {
		b.pool.share.giveUp(&b.waiting)
	}
	if b.filling == nil {
		return nil
	}
	if b.end != nil || b.closed || b.expendable && b.pool.expendable.Load() >= maxExpendable {
		b.filling = nil
		return nil
	}
	free := b.filling.buf[b.filling.w:]
	return free[:min(n, len(free), b.limit-b.buffered)]
}

// prepare sets the chunk to fill, if there is room for more: the last one, unless
// what is left of it would cut the payload into crumbs. Without flow control a new one
// is charged to the tunnel's Share, which may have room for a small one alone; with it
// the window has been.
func (b *receiveBuffer) prepare(n int) bool {
	b.filling = nil
	if b.buffered >= b.limit {
		return false
	}
	if len(b.chunks) > 0 {
		last := b.chunks[len(b.chunks)-1]
		if free := len(last.buf) - last.w; free >= min(n, smallPayload) {
			b.filling = last
			return true
		}
	}
	size := chunkFor(n, b.limit)
	if !b.flows && !b.pool.share.take(size, need) {
		if size = smallChunk; !b.pool.share.takeOrWait(size, &b.waiting) {
			return false
		}
	}
	b.filling, _ = b.pool.of(size).Get().(*chunk)
	if b.filling == nil {
		b.filling = &chunk{buf: make([]byte, size)}
	}
	b.filling.r, b.filling.w = 0, 0
	b.chunks = append(b.chunks, b.filling)
	if b.memory += size; !b.flows {
		b.charged += size
	}
	return true
}

// settle gives back what is charged and no longer due; b.mu is held. Due is what the peer has of
// its windows and what is unread, or, once nothing more can come, the memory that the latter is
// in.
func (b *receiveBuffer) settle() {
	//nolint:errorlint // io.EOF itself: after it the other direction is still open
	failed := b.end != nil && b.end != io.EOF
	due := b.base + b.memory
	switch {
	case b.closed, failed && b.buffered == 0:
		due = 0
	case b.flows && b.end == nil:
		due = b.base + b.limit + max(0, -b.window)
	}
	if more := b.charged - due; more > 0 {
		b.charged -= more
		b.pool.share.Release(more)
	}
}

// commit hands the first n bytes of what space returned to the reader.
func (b *receiveBuffer) commit(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.filling != nil {
		b.filling.w += n
		b.buffered += n
		if b.expendable {
			b.pool.expendable.Add(int64(n))
		}
		b.filling = nil
		b.more.Broadcast() // a reader and WaitUntil may both be waiting
	}
}

// view waits for bytes and returns some of them without copying. They stay in
// the receiveBuffer until consume. After the last one it returns what ended the stream.
// One reader at a time.
func (b *receiveBuffer) view() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.closed:
			return nil, net.ErrClosed
		case b.deadline.passed:
			return nil, os.ErrDeadlineExceeded
		case b.buffered > 0:
			for b.chunks[0].r == b.chunks[0].w {
				b.pop()
			}
			c := b.chunks[0]
			return c.buf[c.r:c.w], nil
		case b.end != nil:
			return nil, b.end
		}
		b.more.Wait()
	}
}

// consume drops the first n bytes of what view returned. With flow control it
// returns the credit that is due to the peer: 0 until half a window or maxUnacked is
// used up, so that a WINDOW_UPDATE goes out for many frames. A reader that keeps up may be
// waiting for the window: it grows.
func (b *receiveBuffer) consume(n int) (credit int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.chunks) == 0 { // thrown away meanwhile
		return 0
	}
	c := b.chunks[0]
	c.r += n
	b.buffered -= n
	if b.expendable {
		b.pool.expendable.Add(int64(-n))
	}
	b.room.Signal()
	if c.r == c.w && c != b.filling {
		b.pop()
	}
	b.unacked += n
	if b.end != nil && b.buffered == 0 {
		b.shrink()
	}
	defer b.settle()
	credit = b.credit()
	if credit > 0 && b.flows && b.buffered < b.limit/4 {
		more := b.grow()
		b.window += more
		credit += more
	}
	return credit
}

// credit gives the peer back what was read, if that is worth telling; b.mu is held.
func (b *receiveBuffer) credit() (credit int) {
	if b.unacked < min(b.limit/2, maxUnacked) || b.end != nil {
		return 0
	}
	credit, b.unacked = b.unacked, 0
	b.window += credit
	return credit
}

// grow doubles the limit, if the stream and the tunnel may have more, and returns by
// how much; b.mu is held.
func (b *receiveBuffer) grow() int {
	more := min(b.limit, maxStreamWindow-b.limit)
	if more <= 0 {
		return 0
	}
	if b.pool.growth.Add(int64(more)) > maxGrowth {
		b.pool.growth.Add(-int64(more))
		return 0
	}
	if more = b.widenBy(more); more == 0 {
		b.pool.growth.Add(-int64(min(b.limit, maxStreamWindow-b.limit)))
		return 0
	}
	b.grown += more
	return more
}

// widenBy lets the stream hold more, if the tunnel's Share has that to spare; b.mu is
// held.
func (b *receiveBuffer) widenBy(more int) int {
	if !b.pool.share.take(more, speed) {
		return 0
	}
	b.limit += more
	b.charged += more
	return more
}

// widen is widenBy for who grants the peer what it returns.
func (b *receiveBuffer) widen(more int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end != nil || b.closed {
		return 0
	}
	more = b.widenBy(more)
	b.window += more
	return more
}

// resize changes the window by what a SETTINGS has changed it at the peer, who may be
// left with less than nothing. More than before must have been charged. With a smaller
// one, what was too little to be told before may be all that there is: it returns the
// credit that is due to the peer then.
func (b *receiveBuffer) resize(delta int) (credit int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit += delta
	b.window += delta
	b.charged += max(0, delta)
	defer b.settle()
	if b.closed {
		return 0
	}
	return b.credit()
}

// shrink leaves to other streams what this one holds no more; b.mu is held.
func (b *receiveBuffer) shrink() {
	b.pool.growth.Add(-int64(b.grown))
	b.grown = 0
}

// pop takes the first chunk, which is empty, out of the queue.
func (b *receiveBuffer) pop() {
	b.pool.of(len(b.chunks[0].buf)).Put(b.chunks[0])
	b.memory -= len(b.chunks[0].buf)
	last := copy(b.chunks, b.chunks[1:])
	b.chunks[last] = nil
	b.chunks = b.chunks[:last]
}

// admit takes a payload of n bytes out of the peer's window. It returns the status to reset the
// stream with if it cannot have them, or 0.
func (b *receiveBuffer) admit(n int) uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.end == io.EOF: //nolint:errorlint // io.EOF itself: a tunnel that ended in one is something else
		return statusStreamAlreadyClosed
	case b.closed && n > 0:
		return statusCancel
	case !b.flows:
		return 0
	}
	if b.window -= n; n > 0 && b.window < 0 {
		return statusFlowControlError
	}
	return 0
}

// finish says that nothing will follow what is buffered but err; the first call
// counts.
func (b *receiveBuffer) finish(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.end = err
	}
	b.settle()
	b.wake()
}

// abort is finish that also replaces a clean end and throws away what is buffered.
func (b *receiveBuffer) abort(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = err
	b.drop()
	b.wake()
}

// close is the owner's end: it throws away what is buffered and what may still
// come. It reports whether bytes were lost by that.
func (b *receiveBuffer) close() (lost bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lost = b.buffered > 0
	b.closed = true
	b.deadline.stop()
	b.drop()
	b.wake()
	return lost
}

// drop leaves the chunks to the garbage collector: the reader and the read loop
// may each still hold one.
func (b *receiveBuffer) drop() {
	if b.expendable {
		b.pool.expendable.Add(int64(-b.buffered))
	}
	b.chunks, b.filling, b.buffered, b.memory = nil, nil, 0, 0
	b.shrink()
	b.settle()
}

func (b *receiveBuffer) wake() {
	b.more.Broadcast()
	b.room.Broadcast()
}

// setExpendable makes the stream expendable, or no longer. A read loop that waits for room
// looks again.
func (b *receiveBuffer) setExpendable(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case yes && !b.expendable:
		b.pool.expendable.Add(int64(b.buffered))
	case !yes && b.expendable:
		b.pool.expendable.Add(int64(-b.buffered))
	}
	b.expendable = yes
	b.room.Broadcast()
}

// over reports whether nothing follows what is buffered.
func (b *receiveBuffer) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end != nil || b.closed
}
