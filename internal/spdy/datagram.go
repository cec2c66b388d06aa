package spdy

import "time"

const (
	// maxDelay is how long a datagram waits for the transport before it is dropped: whoever
	// has sent it has sent it again by then.
	maxDelay = 500 * time.Millisecond
	// maxDatagrams is how many bytes of datagrams wait for the transport.
	maxDatagrams = 256 << 10
	// maxAhead is after how many bytes of datagrams the rest of the tunnel gets a turn. Whoever
	// sends more datagrams than the transport takes would leave it none.
	maxAhead = batchSize
)

// datagrams are what waits to be written ahead of everything else, the oldest first.
type datagrams struct {
	out, spare []byte // their frames, and those that are being written
	queue      []datagram
	ahead      int // bytes that have left since anything else has
}

// mayGo reports whether there are datagrams, and it is their turn.
func (d *datagrams) mayGo() bool { return len(d.queue) > 0 && d.ahead < maxAhead }

type datagram struct {
	stream *Stream
	came   time.Time
	size   int // of its payload; the frame has a header as well
}

// WriteDatagram sends p in one piece, ahead of what other streams send, or drops it: if the
// peer gives no room for all of it, or the transport does not take it in time. It does not wait.
// It reports whether p is on its way so far, and the error of a Write. Streams of datagrams
// have to keep their boundaries by themselves: the reader sees bytes.
func (s *Stream) WriteDatagram(p []byte) (queued bool, err error) {
	q, o := &s.conn.send, &s.out
	q.mu.Lock()
	defer q.mu.Unlock()
	n := int64(len(p))
	switch err := o.stopped(); {
	case err != nil:
		return false, err
	case n > o.window, n > q.window, len(q.datagrams.out)+len(p) > maxDatagrams:
		s.dropped.Add(1)
		return false, nil
	case o.opened < q.batches:
		d := &q.datagrams
		d.out = append(appendDataHeader(d.out, s.id, 0, len(p)), p...)
		d.queue = append(d.queue, datagram{s, time.Now(), len(p)})
	default: // the frame that opens the stream has not left yet
		q.appendData(s, p)
	}
	o.window -= n
	q.window -= n
	q.work.Signal()
	return true, nil
}

// Dropped returns how many datagrams WriteDatagram has dropped.
func (s *Stream) Dropped() int64 { return s.dropped.Load() }

// takeDatagrams returns the frames of the datagrams that are not too old; q.mu is held.
func (q *sender) takeDatagrams() []byte {
	d := &q.datagrams
	frames := d.out
	for _, one := range d.queue {
		if time.Since(one.came) <= maxDelay {
			break
		}
		frames = frames[headerSize+one.size:]
		one.stream.dropped.Add(1)
		one.stream.out.window += int64(one.size)
		q.window += int64(one.size)
	}
	d.queue = d.queue[:0]
	d.out, d.spare = d.spare[:0], d.out
	d.ahead += len(frames)
	return frames
}
