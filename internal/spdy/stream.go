package spdy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Stream is one of the many byte streams of a tunnel. It is a net.Conn with
// half-close; its methods are safe to call at the same time.
//
// The peer's FIN is io.EOF, after all its bytes. Everything else that ends a
// stream is an error and never io.EOF: ErrReset, ErrTunnel, net.ErrClosed.
type Stream struct {
	conn    *Conn
	id      uint32
	headers Header
	done    side // guarded by conn.mu
	loss    loss

	reading sync.Mutex // held by the one reader
	writing sync.Mutex // held by the one writer
	in      receiveBuffer
	out     sendState
	dropped atomic.Int64 // datagrams
}

// side is a set of the two directions of a stream.
type side uint8

const (
	receiving side = 1 << iota
	sending
)

// newStream makes a stream that is open from now on, for which afford has charged cost, and whose first frame leaves after so many
// batches; c.mu is held.
func (c *Conn) newStream(id uint32, headers Header, cost int, batches uint64) *Stream {
	s := &Stream{conn: c, id: id, headers: headers}
	s.in.init(&c.chunks, c.windows.promised)
	s.in.base, s.in.charged = streamCost+headersSize(headers), cost
	s.in.flows = c.cfg.FlowControl
	q, o := &c.send, &s.out
	o.cond.L = &q.mu
	o.deadline = deadline{mu: &q.mu, wake: o.cond.Broadcast}
	o.waiting.wake = func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		o.cond.Broadcast()
	}
	q.mu.Lock()
	o.window, o.opened = q.starting, batches
	q.mu.Unlock()
	c.streams[id] = s
	c.open[id&1]++
	return s
}

// ID returns the stream's number in its tunnel: odd if the client opened it.
func (s *Stream) ID() uint32 { return s.id }

// Headers returns the headers that the stream was opened with. They are shared:
// do not change them.
func (s *Stream) Headers() Header { return s.headers }

// Ended reports whether nothing more is going to arrive: the peer has sent its FIN, or
// the stream is over. Bytes may be left to read.
func (s *Stream) Ended() bool { return s.in.over() }

// SentFin reports whether this side's FIN has been sent. The peer does not see it before.
func (s *Stream) SentFin() bool {
	s.conn.send.mu.Lock()
	defer s.conn.send.mu.Unlock()
	return s.out.fin
}

// AfterLoss calls f on a goroutine of its own once the peer has reset the stream or
// the tunnel has gone away under it: now, if that has happened. A stream that ends
// in any other way never calls it. There is one such f, the last.
func (s *Stream) AfterLoss(f func()) { s.loss.watch(f) }

// SetExpendable sets whether the stream is reset, rather than that it holds up the
// tunnel, when its buffer is full, or when 32 MiB wait in all expendable streams of the
// tunnel: it has no reader yet, and may never get one. Streams are not expendable at first.
func (s *Stream) SetExpendable(yes bool) { s.in.setExpendable(yes) }

// WaitUntil waits until done returns true, Wake having been called for that. The error is
// net.ErrClosed if the stream is closed first, and os.ErrDeadlineExceeded if its read deadline
// passes. done must not use the stream.
func (s *Stream) WaitUntil(done func() bool) error {
	b := &s.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case done():
			return nil
		case b.closed:
			return net.ErrClosed
		case b.deadline.passed:
			return os.ErrDeadlineExceeded
		}
		b.more.Wait()
	}
}

// Await waits until n bytes can be read at once, or no more will come. The peer's window has to
// have room for n.
func (s *Stream) Await(n int) {
	b := &s.in
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buffered < n && b.end == nil && !b.closed && !b.deadline.passed {
		b.more.Wait()
	}
}

// Wake has WaitUntil ask again.
func (s *Stream) Wake() {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.more.Broadcast()
}

// Loss returns why the peer has reset the stream or the tunnel has gone away under it, nil
// if neither has happened.
func (s *Stream) Loss() error { return s.loss.why() }

// SendHeaders sends headers behind what was written. They reach the peer ahead of
// a FIN or a reset that follows. The error is ErrReset once the stream has ended in
// both directions.
func (s *Stream) SendHeaders(headers Header) error {
	text, err := headerText(headers)
	if err != nil {
		return err
	}
	if s.conn.stream(s.id) != s {
		return ErrReset
	}
	_, err = s.conn.send.enqueueHeaders(control{kind: kindHeaders, streamID: s.id}, text)
	return err
}

// LateHeaders returns the headers that the peer has sent last since the stream's
// opening, nil if none or if they exceed 8 KiB. Those sent ahead of a reset are
// there when a Read or Write fails for it.
func (s *Stream) LateHeaders() Header { return s.loss.lateHeaders() }

// LocalAddr returns the transport's address, so that streams of one tunnel have
// the same.
func (s *Stream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr returns the transport's remote address.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Read reads what has arrived, at least one byte. What came before a reset or
// before the loss of the tunnel is still read, then comes the error: Kubernetes
// sends the text of a failure and resets the stream behind it.
func (s *Stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	b, err := s.in.view()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	n := copy(p, b)
	s.consume(n)
	return n, nil
}

// WriteTo writes all that arrives to w, without copying it once more, until the
// peer's FIN. It implements io.WriterTo.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	for {
		b, err := s.in.view()
		if err == io.EOF { //nolint:errorlint // itself: a tunnel that ended in one is something else
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b)
		s.consume(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

func (s *Stream) consume(n int) {
	credit := s.in.consume(n)
	if credit > 0 && s.conn.cfg.FlowControl {
		s.conn.sendWindowUpdate(s.id, credit)
	}
}

// Write sends p. It returns once p is on its way to the transport or in the
// tunnel's bounded queue, hence blocks while the peer takes nothing. After an
// error n bytes may have been sent.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	q, o := &s.conn.send, &s.out
	q.mu.Lock()
	defer q.mu.Unlock()
	o.pending = p
	for err = o.stopped(); err == nil && len(o.pending) > 0; err = o.stopped() {
		if q.enqueue(s); len(o.pending) > 0 {
			o.cond.Wait()
		}
	}
	n = len(p) - len(o.pending)
	o.pending = nil
	q.unqueue(s)
	return n, err
}

// TryReserve reports whether n bytes may be held for the stream by who is about to write
// them, and charges them if so, until Release. Without a Share they always may.
func (s *Stream) TryReserve(n int) bool { return s.conn.cfg.Share.take(n, need) }

// Reserve waits until TryReserve would say yes. The error is that of a Write.
func (s *Stream) Reserve(n int) error {
	s.conn.send.mu.Lock()
	defer s.conn.send.mu.Unlock()
	share, o := s.conn.cfg.Share, &s.out
	defer share.giveUp(&o.waiting)
	for {
		if err := o.stopped(); err != nil || share.takeOrWait(n, &o.waiting) {
			return err
		}
		o.cond.Wait()
	}
}

// Release gives back n bytes of TryReserve or Reserve.
func (s *Stream) Release(n int) { s.conn.cfg.Share.Release(n) }

// CloseWrite sends FIN behind what was written: the peer reads io.EOF, and may
// answer for as long as it likes. It waits for a Write under way.
func (s *Stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.conn.send.finish(s); err != nil {
		return err
	}
	s.conn.finished(s, sending)
	return nil
}

// Close sends FIN if that was not done yet and gives the stream up. It does not
// wait for the peer. If the peer has sent, or sends, what is not going to be
// read, the stream is reset as well, so that the peer knows; what was written
// here still arrives. A Write under way fails with net.ErrClosed, and the stream
// is reset without FIN. Further calls do nothing.
func (s *Stream) Close() error {
	lost := s.in.close()
	if err := s.conn.send.finish(s); err == nil {
		s.conn.finished(s, sending)
	} else if errors.Is(err, errCut) {
		lost = true
	}
	if lost {
		s.conn.drop(s, statusCancel)
	}
	return nil
}

// Reset gives the stream up in both directions at once: the peer's reads and writes fail. After
// both directions have ended it is the same as Close.
func (s *Stream) Reset() error {
	s.in.close()
	s.conn.send.abort(s, net.ErrClosed)
	s.conn.drop(s, statusCancel)
	return nil
}

// Cut ends the stream as if the peer had reset it, and tells the peer so: what has
// arrived is still read, then comes ErrReset.
func (s *Stream) Cut() { s.conn.reset(s, statusCancel) }

// SetDeadline sets both deadlines; see net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	s.in.deadline.set(t)
	s.out.deadline.set(t)
	return nil
}

// SetReadDeadline sets the deadline of reads under way and to come.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.in.deadline.set(t)
	return nil
}

// SetWriteDeadline sets the deadline of writes under way and to come. A write
// that fails by it may have sent a part, which its count says.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.out.deadline.set(t)
	return nil
}
