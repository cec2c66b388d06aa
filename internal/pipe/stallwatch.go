package pipe

import (
	"io"
	"sync"
	"time"
)

const (
	// stallCheck is how long a write may be stalled before its source is asked
	// whether it still lives. A stalled direction does not read, so it would
	// otherwise learn of a reset only when the stall ends.
	stallCheck = 500 * time.Millisecond
	// giveUpChecks is after how many checks in a row without a byte taken a source
	// that is lost is given up, with what it had sent.
	giveUpChecks = 4
	giveUpTime   = giveUpChecks * stallCheck
)

// stallWatch checks the source of one direction while its writes stall.
type stallWatch struct {
	dst, src *side
	seen     int64 // src.progress at the last check
	checks   int   // since src.progress has changed
}

// check is called for every stallCheck that a write stalls. Its error is why the source
// is lost, if what it had sent is to be given up.
func (w *stallWatch) check() error {
	if progress := w.src.progress.Load(); progress != w.seen {
		w.seen, w.checks = progress, 0
	}
	if w.checks++; w.checks < giveUpChecks {
		return nil
	}
	var err error
	select {
	case <-w.src.lost:
		err = w.src.reason
	default:
		err = w.src.takeSocketError() // only now, since it clears the error
	}
	if err != nil {
		w.dst.givenUp.Store(true)
	}
	return err
}

// timedWriter writes to a Conn that the runtime's poller cannot wait for. A timer checks
// writes that stall.
type timedWriter struct {
	stallWatch
	err error // of writing, or why the source is lost

	mu      sync.Mutex
	timer   *time.Timer
	writing bool
	lost    error // what checkStall found
}

func newTimedWriter(dst, src *side) *timedWriter {
	w := &timedWriter{stallWatch: stallWatch{dst: dst, src: src}}
	w.timer = time.AfterFunc(stallCheck, w.checkStall)
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

// begin starts the timer for a write, or for another wait on the destination's account.
func (w *timedWriter) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = true
	w.timer.Reset(stallCheck)
}

// finish ends what began, with the error of the write. No check comes after it.
func (w *timedWriter) finish(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
	w.timer.Stop()
	w.src.progress.Add(1)
	switch {
	case w.lost != nil:
		w.err = w.lost
	case err != nil:
		w.err = writeError{err}
	}
	return w.err
}

// checkStall ends a write that stalls if its source is lost. If the write has ended by
// the time it runs it does nothing: the source's error is for its reader.
func (w *timedWriter) checkStall() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.writing {
		return
	}
	if w.lost = w.check(); w.lost == nil {
		w.timer.Reset(stallCheck)
		return
	}
	// A deadline ends the write without a failure of the Conn's own, which would
	// be taken for the first.
	if d, ok := w.dst.Conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Unix(0, 0))
		return
	}
	_ = Reset(w.dst.Conn)
}
