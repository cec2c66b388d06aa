package portforward

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"porthole.dev/porthole/internal/spdy"
)

const (
	// openEnd is how long an end of file is held back while the error stream
	// stays open and this side still sends. Servers end both at once unless they
	// go on taking what this side sends; until now only a pause can tell these
	// from one that is about to write an error. It is much more than a stock
	// server needs for the next line of its program, and a TCP retransmission
	// or two (RFC 6298) fit in.
	openEnd = 2 * time.Second
	// textTime is how long the error stream has to end after its first octets,
	// which are all that a stock server writes, and how long a reset data stream
	// waits for the text that belongs to it.
	textTime = time.Second
	// lateData is how long the data stream has to end after an error text.
	lateData = 2 * time.Second
	// endCheck is how often a data stream is asked in the meantime.
	endCheck = 10 * time.Millisecond
	// drainTime is how long a server has to confirm that it is through with a
	// connection given up here. containerd lingers for a second.
	drainTime = 3 * time.Second
	// inFlight is how long after a Write its octets may still be on their way.
	inFlight = 300 * time.Millisecond
)

// errUnconfirmed is the verdict about a connection that was given up here and of
// whose end the server has said nothing.
var errUnconfirmed = errors.New("server did not end the connection")

// listen waits for the end of the error stream, which a server writes to when it
// fails and ends when it is through with the connection. It runs from the
// connection's opening on and gives the tunnel back in the end.
func (c *Conn) listen() {
	c.verdict = c.judge()
	if errors.Is(c.verdict, ErrNoSandbox) {
		c.tunnel.pool.outlive(c.opened) // before anybody hears of it, and tries again
	}
	close(c.over)
	// Octets that nobody takes any more block a stock server's reading of the
	// whole tunnel, hence nobody else should come to this one.
	clogged := c.verdict == nil && !c.data.SentFin() && !c.isClosed() && c.sendsNow()
	c.stopSending()
	c.text.Close()
	if c.verdict != nil && !errors.Is(c.verdict, errUnconfirmed) {
		c.cutSoon()
	}
	if clogged {
		c.tunnel.pool.retire(c.tunnel)
		c.awaitEnd()
	}
	c.tunnel.pool.release(c.tunnel, !errors.Is(c.verdict, errUnconfirmed))
}

// cutSoon ends the data stream of a connection that has failed, for who waits for it in
// whatever way. What is on its way still comes.
func (c *Conn) cutSoon() {
	if c.data.Ended() {
		c.data.Cut()
		return
	}
	time.AfterFunc(lateData, c.data.Cut)
}

// awaitEnd waits for the end of the data stream, which may be behind that of the
// error stream: a tunnel that was closed in between would turn the end into a loss.
func (c *Conn) awaitEnd() {
	tick := time.NewTicker(endCheck)
	defer tick.Stop()
	for end := time.Now().Add(lateData); time.Now().Before(end) && !c.isClosed() && !c.data.Ended(); {
		<-tick.C
	}
}

// judge reads the error stream to its end and says how the connection ended.
func (c *Conn) judge() error {
	text := errorText{stream: c.text}
	_, err := c.text.WriteTo(&text)
	switch {
	case len(text.octets) > 0:
		return &PortError{Port: c.port, Text: strings.TrimSpace(clip(string(text.octets)))}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errUnconfirmed
	}
	return err
}

// errorText takes in the text of an error stream, and gives the rest of it a time.
type errorText struct {
	stream *spdy.Stream
	octets []byte
}

func (e *errorText) Write(p []byte) (int, error) {
	if len(e.octets) == 0 {
		_ = e.stream.SetReadDeadline(time.Now().Add(textTime))
	}
	e.octets = append(e.octets, p[:min(len(p), maxMessage-len(e.octets))]...)
	return len(p), nil
}

// sendsNow says whether a Write is under way, or its octets may be.
func (c *Conn) sendsNow() bool {
	last := c.wroteAt.Load()
	return c.writes.Load() > 0 || last > 0 && time.Since(c.tunnel.born)-time.Duration(last) < inFlight
}

// stopSending ends a Write under way and sends the end of file, so that the server
// forgets the stream. What is left to read stays.
func (c *Conn) stopSending() {
	c.mu.Lock()
	_ = c.data.SetWriteDeadline(time.Unix(0, 0))
	c.mu.Unlock()
	_ = c.data.CloseWrite()
}

// end is what a Read gets after the end of the data stream: io.EOF if that was all.
func (c *Conn) end() error {
	if c.ended.Load() {
		return io.EOF
	}
	pause := time.NewTimer(openEnd)
	defer pause.Stop()
	for {
		select {
		case <-c.over:
			return c.verdictOr(io.EOF)
		case <-c.closed:
			return net.ErrClosed
		case <-c.readBy.done():
			return os.ErrDeadlineExceeded
		case <-pause.C:
			// With nothing more to take the server is certain to end the
			// error stream. With something, it may wait for us to be
			// told first.
			if !c.data.SentFin() {
				c.ended.Store(true)
				return io.EOF
			}
		}
	}
}

// explain replaces what a stream says about its failure by what the server said.
func (c *Conn) explain(err error) error {
	if errors.Is(err, spdy.ErrReset) {
		wait := time.NewTimer(textTime)
		defer wait.Stop()
		select {
		case <-c.over:
		case <-c.closed:
		case <-wait.C:
		}
	}
	if c.isOver() && !c.isClosed() {
		return c.verdictOr(err)
	}
	return err
}

// verdictOr returns the verdict, or err if the server had nothing to say; over is
// closed.
func (c *Conn) verdictOr(err error) error {
	if c.verdict != nil && !errors.Is(c.verdict, errUnconfirmed) {
		return c.verdict
	}
	return err
}
