package spdy

import (
	"os"
	"syscall"
)

// Splicer sends octets of sockets over a tunnel's transport without reading them. A
// Conn calls it from the goroutine that writes to the transport.
type Splicer interface {
	// Load takes up to limit octets off src, as many as there are, and never waits.
	// 0 octets without an error are nothing for now; io.EOF is the socket's end.
	Load(src syscall.RawConn, limit int) (int, error)
	// Send writes head, and what was loaded behind it.
	Send(head []byte) error
}

// draw is a SpliceFrom under way; the sender's mutex guards it.
type draw struct {
	src  syscall.RawConn
	n    int64 // octets sent
	loan int64 // taken out of the windows for a turn under way
	dry  bool  // there is no more, at least for now
	err  error // why
}

// draw has the write loop send what src has. It returns once there is no more for now,
// or with what came between.
func (q *sender) draw(s *Stream, src syscall.RawConn) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o, d := &s.out, &draw{src: src}
	o.draw = d
	defer func() {
		o.draw = nil
		q.unqueue(s)
	}()
	for {
		switch {
		case d.loan > 0: // src is in use
		case o.err != nil:
			return d.n, o.err
		case o.deadline.passed:
			return d.n, os.ErrDeadlineExceeded
		case d.dry:
			return d.n, d.err
		default:
			q.enqueue(s)
		}
		o.cond.Wait()
	}
}

// turn returns the stream whose socket is to be drawn from now, if any, and how much; it
// is taken out of the windows until drawn gives the rest back.
func (q *sender) turn() (s *Stream, limit int) {
	for len(q.drawing) > 0 && q.window > 0 {
		s = q.drawing[0]
		q.drawing = behind(q.drawing)
		o := &s.out
		o.queued = false
		loan := min(batchSize, o.window, q.window)
		if o.err != nil || loan <= 0 {
			continue
		}
		o.draw.loan = loan
		o.window -= loan
		q.window -= loan
		return s, int(loan)
	}
	return nil, 0
}

// drawn notes that a stream's turn has brought n octets, and queues it for the next one,
// unless there was nothing: then err says why, if there is a reason.
func (q *sender) drawn(s *Stream, n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := &s.out
	d := o.draw
	o.window += d.loan - int64(n)
	q.window += d.loan - int64(n)
	d.n += int64(n)
	d.loan, d.dry, d.err = 0, n == 0, err
	if d.dry || o.err != nil || o.deadline.passed {
		o.cond.Broadcast()
		return
	}
	q.enqueue(s)
}
