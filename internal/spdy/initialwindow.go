package spdy

const (
	// streamCost is what a stream is charged for what it takes by itself, and by
	// what serves it, in bytes.
	streamCost = 8 << 10
	// smallWindow is what streams begin with while a tunnel's Share is short.
	smallWindow = 16 << 10
	// shrinkPing is the first id of the pings by which a peer tells that it has
	// taken note of a smaller window; those of the heartbeat are below it.
	shrinkPing = 1 << 31
)

// windows are those that the peer's new streams begin with, where a Share has to pay for
// them; Conn.mu guards them.
//
// A SETTINGS changes the windows of open streams too, by the difference (section
// 2.6.8). When it makes them smaller, the peer may still send by the old ones until
// it has read it: until its answer to a PING behind it, the old ones are charged.
type windows struct {
	announced int    // by the last SETTINGS
	promised  int    // that a stream may begin with which arrives now
	ping      uint32 // that waits for its answer, or 0
	pings     uint32 // sent
}

// afford charges the tunnel's Share for a stream to come, with the window that it begins
// with, if it has room for that; c.mu is held until the stream is there, so that a change of windows
// does not come between.
func (c *Conn) afford(headers Header) (cost int, ok bool) {
	share := c.cfg.Share
	if share.unbounded() {
		return 0, true
	}
	size := headersSize(headers)
	if c.cfg.FlowControl && c.windows.announced < initialWindow && share.relaxed() {
		c.setWindow(initialWindow)
	}
	cost = streamCost + size
	if c.cfg.FlowControl {
		cost += c.windows.promised
	}
	return cost, share.take(cost, need)
}

// topUp grants a new stream the rest of what one begins with where nothing is short.
// Where something is, later ones begin with less.
func (c *Conn) topUp(s *Stream) {
	if !c.cfg.FlowControl || c.cfg.Share.unbounded() {
		return
	}
	c.mu.Lock()
	short := c.windows.announced < initialWindow
	c.mu.Unlock()
	if short {
		return
	}
	if more := s.in.widen(c.cfg.ReceiveBuffer - initialWindow); more > 0 {
		c.sendWindowUpdate(s.id, more)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.in.over() {
		c.setWindow(smallWindow)
	}
}

// setWindow announces the window for streams to come, which changes those of open ones,
// unless an earlier change is not through; c.mu is held.
func (c *Conn) setWindow(size int) {
	w := &c.windows
	delta := size - w.announced
	if w.ping != 0 || delta == 0 {
		return
	}
	if delta > 0 {
		if !c.cfg.Share.take(delta*len(c.streams), speed) {
			return
		}
		w.promised = size
		c.resize(delta)
	}
	w.announced = size
	c.sendSettings()
	if delta < 0 {
		w.ping = shrinkPing + w.pings*2&(shrinkPing-1) + c.cfg.firstID()&1
		w.pings++
		c.send.enqueueUnbounded(control{kind: kindPing, value: w.ping})
	}
}

// windowsShrunk takes note that the peer knows of smaller windows, if that is the ping
// that it answers. All streams that are here by now have had the old one.
func (c *Conn) windowsShrunk(ping uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &c.windows
	if w.ping == 0 || ping != w.ping {
		return
	}
	delta := w.announced - w.promised
	w.ping, w.promised = 0, w.announced
	c.resize(delta)
}

// resize changes the windows of all streams; c.mu is held.
func (c *Conn) resize(delta int) {
	for _, s := range c.streams {
		if credit := s.in.resize(delta); credit > 0 {
			c.sendWindowUpdate(s.id, credit)
		}
	}
}
