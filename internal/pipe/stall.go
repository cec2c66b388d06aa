package pipe

import (
	"io"
	"sync"
	"time"
)

const (
	// stallCheck is how long a write may be stalled before its source is asked
	// whether it is still there. A stalled direction does not read, so it would
	// otherwise learn of a reset only when the stall ends.
	stallCheck = 500 * time.Millisecond
	// patience is after how many checks in a row without a byte taken what a lost
	// source had said is no longer offered.
	patience = 4
)

// stall watches over the writes of one direction that stall.
type stall struct {
	dst, src *end
	seen     int64 // src.moved at the last check
	checks   int   // since src.moved has changed
}

// check is called for every stallCheck that a write stalls. Its error is why the source
// is lost, if what it had said is to be given up.
func (s *stall) check() error {
	if moved := s.src.moved.Load(); moved != s.seen {
		s.seen, s.checks = moved, 0
	}
	if s.checks++; s.checks < patience {
		return nil
	}
	// Only now, since asking a socket clears its error.
	err := s.src.failure()
	if err != nil {
		s.dst.stuck.Store(true)
	}
	return err
}

// failure is why the Conn is lost, nil while it lives.
func (e *end) failure() error {
	if e.isLost() {
		return e.reason
	}
	return pendingError(e.Conn)
}

// timedWriter writes to a Conn that cannot be waited for otherwise. A timer has
// stalled writes looked after.
type timedWriter struct {
	stall
	err error // of writing, or why the source is lost

	mu      sync.Mutex
	timer   *time.Timer
	writing bool
	lost    error // what look found
}

func newTimedWriter(dst, src *end) *timedWriter {
	w := &timedWriter{stall: stall{dst: dst, src: src}}
	w.timer = time.AfterFunc(stallCheck, w.look)
	w.timer.Stop()
	return w
}

// Write implements io.Writer.
func (w *timedWriter) Write(p []byte) (n int, err error) {
	w.begin()
	n, err = w.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, w.finish(err)
}

func (w *timedWriter) failure() error { return w.err }

func (w *timedWriter) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = true
	w.timer.Reset(stallCheck)
}

// finish ends what began, with the error of the write. No look comes after it.
func (w *timedWriter) finish(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
	w.timer.Stop()
	w.src.moved.Add(1)
	switch {
	case w.lost != nil:
		w.err = w.lost
	case err != nil:
		w.err = writeError{err}
	}
	return w.err
}

// look checks a write that stalls, and ends it if its source is lost. One that runs
// when the write has ended does nothing: the source's error is for its reader.
func (w *timedWriter) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.writing {
		return
	}
	if w.lost = w.check(); w.lost == nil {
		w.timer.Reset(stallCheck)
		return
	}
	w.interrupt()
}

// interrupt ends a write under way, if it can without a failure of its own, that
// would be taken for the first.
func (w *timedWriter) interrupt() {
	if d, ok := w.dst.Conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Unix(0, 0))
		return
	}
	_ = Reset(w.dst.Conn)
}
