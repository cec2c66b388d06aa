package portforward

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// openEnd is how long an end of file is held back while the error stream stays open
	// and this side still sends. Servers end both at once unless they still take what
	// this side sends; only a pause can tell these from one that is about to write an
	// error. It is much more than a stock server needs between the two, and a TCP
	// retransmission or two (RFC 6298) fit in.
	openEnd = 2 * time.Second
	// textTime is how long the error stream has to end after its first bytes, which are
	// all that a stock server writes, and how long a reset data stream waits for the text
	// that belongs to it.
	textTime = time.Second
	// lateData is how long the data stream has to end after an error text.
	lateData = 2 * time.Second
	// endCheck is how often a data stream is asked in the meantime.
	endCheck = 10 * time.Millisecond
	// drainTime is how long a server has to confirm that it is through with a connection
	// that was given up here. containerd lingers for a second.
	drainTime = 3 * time.Second
	// inFlight is how long after a Write its bytes may still be on their way.
	inFlight = 300 * time.Millisecond
)

// errUnconfirmed is the result of a connection that was given up here, and about whose end
// the server has said nothing.
var errUnconfirmed = errors.New("server did not end the connection")

// listen waits for the end of the error stream, which a server writes to when it fails and
// ends when it is through with the connection. It runs from the connection's opening on and
// gives the tunnel back in the end.
func (c *stockConn) listen() {
	c.result = c.readErrorStream()
	if errors.Is(c.result, tunnel.ErrNoSandbox) {
		c.tunnel.pool.retireOlder(c.opened) // before anybody gets the error and tries again
	}
	close(c.over)
	c.data.Wake() // awaitResult
	// Bytes that nobody takes any more block a stock server's reading of the whole
	// tunnel, so no other connection should come to this one.
	undrained := c.result == nil && !c.data.SentFin() && !isDone(c.closed) && c.sendsNow()
	c.stopSending()
	c.errorStream.Close()
	if c.result != nil && !errors.Is(c.result, errUnconfirmed) {
		// What is on its way still comes; then all who wait for the data stream get an error.
		if c.data.Ended() {
			c.data.Cut()
		} else {
			time.AfterFunc(lateData, c.data.Cut)
		}
	}
	if undrained {
		c.tunnel.pool.retire(c.tunnel)
		c.awaitEnd()
	}
	c.tunnel.pool.release(c.tunnel, !errors.Is(c.result, errUnconfirmed))
}

// awaitEnd waits for the end of the data stream, which may come after that of the error
// stream: closing the tunnel in between would turn the end into a loss.
func (c *stockConn) awaitEnd() {
	tick := time.NewTicker(endCheck)
	defer tick.Stop()
	for end := time.Now().Add(lateData); time.Now().Before(end) && !isDone(c.closed) && !c.data.Ended(); {
		<-tick.C
	}
}

// readErrorStream reads the error stream to its end and returns how the connection ended.
func (c *stockConn) readErrorStream() error {
	text := errorText{stream: c.errorStream}
	_, err := c.errorStream.WriteTo(&text)
	switch {
	case len(text.bytes) > 0:
		return StockError(c.port, strings.TrimSpace(tunnel.ClipText(string(text.bytes))))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errUnconfirmed
	}
	return err
}

// errorText collects the text of an error stream, whose end must follow soon.
type errorText struct {
	stream *spdy.Stream
	bytes  []byte
}

func (e *errorText) Write(p []byte) (int, error) {
	if len(e.bytes) == 0 {
		_ = e.stream.SetReadDeadline(time.Now().Add(textTime))
	}
	e.bytes = append(e.bytes, p[:min(len(p), tunnel.MaxText-len(e.bytes))]...)
	return len(p), nil
}

// sendsNow reports whether a Write is under way, or its bytes may be.
func (c *stockConn) sendsNow() bool {
	last := c.wroteAt.Load()
	return c.writes.Load() > 0 || last > 0 && time.Since(c.tunnel.started)-time.Duration(last) < inFlight
}

// stopSending ends a Write under way and sends the end of file, so that the server forgets
// the stream. What is left to read stays.
func (c *stockConn) stopSending() {
	c.mu.Lock()
	_ = c.data.SetWriteDeadline(time.Unix(0, 0))
	c.mu.Unlock()
	_ = c.data.CloseWrite()
}

// awaitResult returns what a Read gets after the end of the data stream: io.EOF if the
// server reports no error behind it.
func (c *stockConn) awaitResult() error {
	if c.ended.Load() {
		return io.EOF
	}
	var paused atomic.Bool
	pause := time.AfterFunc(openEnd, func() { paused.Store(true); c.data.Wake() })
	defer pause.Stop()
	err := c.data.WaitUntil(func() bool { return isDone(c.over) || paused.Load() })
	if err == nil && !isDone(c.over) {
		if !c.data.SentFin() {
			c.ended.Store(true)
			return io.EOF
		}
		// With nothing more to take, the server is certain to end the error stream.
		// Before that, it might have waited for our end first.
		err = c.data.WaitUntil(func() bool { return isDone(c.over) })
	}
	if err != nil {
		return err
	}
	return c.resultOr(io.EOF)
}

// explain replaces what a stream says about its failure by what the server said.
func (c *stockConn) explain(err error) error {
	if errors.Is(err, spdy.ErrReset) {
		wait := time.NewTimer(textTime)
		defer wait.Stop()
		select {
		case <-c.over:
		case <-c.closed:
		case <-wait.C:
		}
	}
	if isDone(c.over) && !isDone(c.closed) {
		return c.resultOr(err)
	}
	return err
}

// resultOr returns the result, or err if the server did not report an error; over is closed.
func (c *stockConn) resultOr(err error) error {
	if c.result != nil && !errors.Is(c.result, errUnconfirmed) {
		return c.result
	}
	return err
}
