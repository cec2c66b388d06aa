package spdy

import (
	"slices"
	"syscall"
)

// Splicer sends bytes of sockets over a tunnel's transport without reading them. A Conn calls
// it from the goroutine that writes to the transport.
type Splicer interface {
	// Load takes up to limit bytes off src, as many as there are, and never waits. 0 bytes
	// without an error mean nothing for now; io.EOF is the socket's end.
	Load(src syscall.RawConn, limit int) (int, error)
	// Send writes head, and what was loaded behind it.
	Send(head []byte) error
}

// splice is a SpliceFrom under way; the sender's mutex guards it.
type splice struct {
	src      syscall.RawConn
	n        int64 // bytes sent
	reserved int64 // taken out of the windows while the write loop uses src
	drained  bool  // there is no more, at least for now
	err      error // why
}

// SpliceFrom sends what a socket has until there is no more for now, by the transport's
// Splicer; without one it sends nothing. The error is io.EOF when the socket has
// ended, or the socket's, or why the stream sends no more; n bytes were sent.
func (s *Stream) SpliceFrom(src syscall.RawConn) (n int64, err error) {
	if s.conn.cfg.Splicer == nil {
		return 0, nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	q, o, d := &s.conn.send, &s.out, &splice{src: src}
	q.mu.Lock()
	defer q.mu.Unlock()
	o.splice = d
	err = o.stopped()
	for d.reserved > 0 || err == nil && !d.drained {
		if d.reserved == 0 {
			q.enqueue(s)
		}
		o.cond.Wait()
		err = o.stopped()
	}
	if err == nil {
		err = d.err
	}
	o.splice = nil
	q.unqueue(s)
	return d.n, err
}

// nextSplice returns the stream whose socket is to be spliced from now, if any, and how much;
// that is taken out of the windows until spliced gives the rest back.
func (q *sender) nextSplice() (s *Stream, limit int) {
	for len(q.splicing) > 0 && q.window > 0 {
		s = q.splicing[0]
		q.splicing = slices.Delete(q.splicing, 0, 1)
		o := &s.out
		o.queued = false
		reserved := min(batchSize, o.window, q.window)
		if o.err != nil || reserved <= 0 {
			continue
		}
		o.splice.reserved = reserved
		o.window -= reserved
		q.window -= reserved
		return s, int(reserved)
	}
	return nil, 0
}

// spliced notes that a stream's turn has brought n bytes, and queues it for the next one,
// unless there was nothing: then err returns why, if there is a reason.
func (q *sender) spliced(s *Stream, n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := &s.out
	d := o.splice
	o.window += d.reserved - int64(n)
	q.window += d.reserved - int64(n)
	d.n += int64(n)
	d.reserved, d.drained, d.err = 0, n == 0, err
	if d.drained || o.stopped() != nil {
		o.cond.Broadcast()
		return
	}
	q.enqueue(s)
}
