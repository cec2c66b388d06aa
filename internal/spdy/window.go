package spdy

// Flow control, SPDY/3.1: each stream has a window in each direction, and so has
// the session (section 2.6.8 and the 3.1 changes to it). Only DATA counts.
//
// The session window bounds nothing here and is kept as wide as it can be: what
// a tunnel holds is bounded stream by stream, and streams that nobody reads
// would use a session window up and hold up the others.

// announce tells the peer our windows, with the first frames that go out. It
// runs before the loops start.
func (c *Conn) announce() {
	c.windows.promised = c.cfg.ReceiveBuffer
	if c.cfg.FlowControl && !c.cfg.Share.unbounded() {
		// More would be promised to all streams that are ever opened.
		c.windows.promised = min(initialWindow, c.cfg.ReceiveBuffer)
	}
	c.windows.announced = c.windows.promised
	if !c.cfg.FlowControl {
		return
	}
	c.sendSettings()
	c.sendWindowUpdate(0, maxWindow-initialWindow)
}

func (c *Conn) sendSettings() {
	c.send.enqueueUnbounded(control{kind: kindSettings, settings: []setting{
		{id: settingInitialWindow, value: uint32(c.windows.announced)},
	}})
}

// sendWindowUpdate widens the peer's window for a stream, or for the session with id 0.
func (c *Conn) sendWindowUpdate(id uint32, bytes int) {
	c.send.enqueueUnbounded(control{kind: kindWindowUpdate, streamID: id, value: uint32(bytes)})
}

// creditSession counts bytes that came in, whether or not anybody reads them,
// and gives them back to the session window. The read loop alone calls it.
func (c *Conn) creditSession(n int) {
	if !c.cfg.FlowControl {
		return
	}
	if c.sessionDebt += n; c.sessionDebt >= maxWindow/2 {
		c.sendWindowUpdate(0, c.sessionDebt)
		c.sessionDebt = 0
	}
}

// handleWindowUpdate widens one of our windows. One for a stream that has ended
// crossed with its end.
func (c *Conn) handleWindowUpdate(f control) error {
	if !c.cfg.FlowControl {
		return nil
	}
	if f.streamID == 0 {
		if !c.send.credit(nil, int64(f.value)) {
			return protocolError("session window above 31 bits")
		}
		return nil
	}
	s := c.stream(f.streamID)
	if s != nil && !c.send.credit(s, int64(f.value)) {
		c.reset(s, statusFlowControlError)
	}
	return nil
}

// handleSettings takes note of the peer's window for new streams, which changes
// the open ones by the difference. The other settings are advice for browsers.
func (c *Conn) handleSettings(settings []setting) error {
	for _, s := range settings {
		if s.id != settingInitialWindow || !c.cfg.FlowControl {
			continue
		}
		if s.value > maxWindow {
			return protocolError("initial window above 31 bits")
		}
		if !c.resizeWindows(int64(s.value)) {
			return protocolError("stream window above 31 bits")
		}
	}
	return nil
}

// resizeWindows holds c.mu throughout, so that no stream starts with the old
// window and misses the difference.
func (c *Conn) resizeWindows(size int64) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ok = true
	delta := c.send.setInitialWindow(size)
	for _, s := range c.streams {
		ok = c.send.credit(s, delta) && ok
	}
	return ok
}
