package spdy

import (
	"errors"
	"io"
)

// readLoop reads frames until the tunnel ends, for whatever reason.
func (c *Conn) readLoop() {
	defer c.loops.Done()
	for {
		b, err := c.reader.next(headerSize)
		if err == nil {
			if h := frameHeader(b); h.control() {
				err = c.readControl(h)
			} else {
				err = c.readData(h.streamID(), h.flags(), h.length())
			}
		}
		if err != nil {
			c.fail(err, errors.Is(err, ErrProtocol), goAwayProtocolError)
			return
		}
		c.progress.Add(1)
	}
}

// readData takes in one DATA frame. Data of a stream that has just ended here is no mistake of
// the peer, and is dropped.
func (c *Conn) readData(id uint32, flags uint8, n int) error {
	s := c.stream(id)
	if s == nil {
		return c.discardData(id, n)
	}
	if refusal := s.in.admit(n); refusal != 0 {
		c.reset(s, refusal)
		return c.discardData(id, n)
	}
	if err := c.receive(s, n); err != nil {
		return err
	}
	c.creditSession(n)
	if flags&flagFin != 0 {
		c.receivedFin(s)
	}
	return nil
}

// receive moves n bytes from the transport into the stream, or drops them once nobody will read
// them.
func (c *Conn) receive(s *Stream, n int) error {
	for n > 0 {
		dst := s.in.space(n, c.stalled)
		if dst == nil {
			if !s.in.over() { // expendable, and full
				c.reset(s, statusFlowControlError)
			}
			return c.reader.discard(n)
		}
		m, err := c.reader.read(dst)
		s.in.commit(m)
		if err != nil {
			return err
		}
		c.progress.Add(1)
		n -= m
	}
	return nil
}

func (c *Conn) stalled(yes bool) {
	since := int64(0)
	if yes {
		since = c.now()
	}
	c.readStall.Store(since)
	if yes {
		c.stallWatch.begin(c)
	}
}

// discardData drops the payload of a frame for a stream that is not there. One
// that never was is told so (section 2.2.2).
func (c *Conn) discardData(id uint32, n int) error {
	if err := c.reader.discard(n); err != nil {
		return err
	}
	c.creditSession(n)
	if id == 0 {
		return protocolError("data on stream 0")
	}
	if c.wasOpened(id) {
		return nil
	}
	return c.send.enqueueControl(control{kind: kindRstStream, streamID: id, value: statusInvalidStream})
}

// readControl takes in one control frame.
func (c *Conn) readControl(h frameHeader) error {
	kind, n := h.kind(), h.length()
	if n > maxControlLength {
		return protocolError("control frame %d with %d bytes", kind, n)
	}
	if !kind.known() {
		return c.reader.discard(n)
	}
	h = append(frameHeader(nil), h...) // the next read reuses its memory
	payload, err := c.reader.next(n)
	if err != nil {
		return err
	}
	f, err := parseControl(h, payload)
	if err != nil {
		return err
	}
	return c.handle(f)
}

// handle acts on one control frame of the peer.
func (c *Conn) handle(f control) error {
	switch f.kind {
	case kindSynStream:
		return c.handleSynStream(f)
	case kindSynReply, kindHeaders:
		return c.handleHeaders(f)
	case kindRstStream:
		c.handleReset(f)
	case kindSettings:
		return c.handleSettings(f.settings)
	case kindPing:
		return c.handlePing(f)
	case kindGoAway:
		c.handleGoAway(f.streamID)
	case kindWindowUpdate:
		return c.handleWindowUpdate(f)
	}
	return nil
}

// handleSynStream takes on a stream of the peer, or refuses it.
func (c *Conn) handleSynStream(f control) error {
	headers, err := c.headers.decode(f.block)
	if err != nil {
		return err
	}
	taken, err := c.claim(f.streamID)
	if err != nil {
		return err
	}
	var stream *Stream
	if taken {
		stream, taken, err = c.arrive(f, headers)
	}
	switch {
	case err != nil:
		return err
	case !taken:
		return c.send.enqueueControl(control{kind: kindRstStream, streamID: f.streamID, value: statusRefusedStream})
	case stream != nil:
		c.topUp(stream)
	}
	return nil
}

// claim checks the id of a stream of the peer, which must have the peer's parity
// and grow (section 2.3.2), and reports whether there is room for it. The backlog
// counts too: streams that were reset before they were accepted are no longer open.
func (c *Conn) claim(id uint32) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id&1 == c.cfg.firstID()&1 || id <= c.lastID {
		return false, protocolError("stream %d opened after %d", id, c.lastID)
	}
	c.lastID = id
	return !c.leaving && c.open[id&1] < c.cfg.MaxStreams && len(c.backlog) < c.cfg.MaxStreams, nil
}

// arrive puts the peer's new stream where Accept finds it, if the tunnel's Share has room for it, and
// answers it with a SYN_REPLY without headers: the peer's program may be waiting for it. The stream
// is nil if the tunnel is gone.
func (c *Conn) arrive(f control, headers Header) (s *Stream, taken bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cost, ok := c.afford(headers)
	if !ok {
		return nil, false, nil
	}
	reply := control{kind: kindSynReply, streamID: f.streamID}
	if f.flags&flagUnidirectional != 0 {
		reply.flags = flagFin
	}
	batches, err := c.send.enqueueHeaders(reply, make([]byte, 4))
	if err != nil || c.err != nil {
		c.cfg.Share.Release(cost)
		return nil, true, err
	}
	s = c.newStream(f.streamID, headers, cost, batches)
	if f.flags&flagFin != 0 {
		s.in.finish(io.EOF)
		s.done |= receiving
	}
	if f.flags&flagUnidirectional != 0 {
		c.send.abort(s, errUnidirectional)
		s.done |= sending
	}
	if s.done == receiving|sending {
		c.remove(s)
	}
	c.backlog = append(c.backlog, s)
	c.announceArrival()
	return s, true, nil
}

// handleHeaders takes in SYN_REPLY and HEADERS. Whether anybody asks for their
// headers or not, they must be decompressed for those that follow.
func (c *Conn) handleHeaders(f control) error {
	headers, err := c.headers.decode(f.block)
	if err != nil {
		return err
	}
	s := c.stream(f.streamID)
	if s == nil {
		return nil
	}
	if f.kind == kindHeaders && !c.cfg.Server { // clients have nothing to say by them
		s.loss.keep(headers)
	}
	if f.flags&flagFin != 0 {
		c.receivedFin(s)
	}
	return nil
}

func (c *Conn) receivedFin(s *Stream) {
	s.in.finish(io.EOF)
	c.finished(s, receiving)
}

// handleReset ends a stream in both directions. A FIN that came before stays a
// FIN: all of the peer's bytes are here.
func (c *Conn) handleReset(f control) {
	reason := ErrReset
	if f.value == statusRefusedStream {
		reason = ErrRefused
	}
	if s := c.forget(f.streamID); s != nil {
		// Sending first: who reads of the end must not be able to write still.
		c.send.abort(s, reason)
		s.in.finish(reason)
		s.loss.happen(reason)
	}
}

// reset ends a stream because the peer broke its rules, or sends what nobody reads.
func (c *Conn) reset(s *Stream, status uint32) {
	c.send.abort(s, ErrReset)
	s.in.finish(ErrReset)
	c.drop(s, status)
	s.loss.happen(ErrReset)
}

// handlePing sends the peer's pings back; the others are answers to ours.
func (c *Conn) handlePing(f control) error {
	if f.value&1 == c.cfg.firstID()&1 {
		c.windowsShrunk(f.value)
		return nil
	}
	return c.send.enqueueControl(f)
}

// handleGoAway: the peer takes no new streams, and has not taken those after
// last (section 2.6.6). It never saw their data, so another tunnel may have them.
func (c *Conn) handleGoAway(last uint32) {
	c.mu.Lock()
	c.away = true
	var lost []*Stream
	for id, s := range c.streams {
		if id > last && id&1 == c.cfg.firstID()&1 {
			lost = append(lost, s)
			c.remove(s)
		}
	}
	c.mu.Unlock()
	for _, s := range lost {
		c.send.abort(s, ErrRefused)
		s.in.finish(ErrRefused)
		s.loss.happen(ErrRefused)
	}
}

// stream returns an open stream, or nil.
func (c *Conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// forget takes an open stream out of the map and returns it, or nil.
func (c *Conn) forget(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s != nil {
		c.remove(s)
	}
	return s
}

// wasOpened reports whether either side has used the id.
func (c *Conn) wasOpened(id uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id&1 == c.cfg.firstID()&1 {
		return id < c.nextID
	}
	return id <= c.lastID
}
