package spdy

import (
	"io"
	"sync"
	"time"
)

const (
	// watchPause is how often a transport that is not being read is asked whether its
	// peer is still there.
	watchPause = 250 * time.Millisecond
	// watchPatience is after how many looks in a row, between which nothing was read,
	// what a peer that is gone has left to read is given up.
	watchPatience = 8
)

// stallWatch watches over the transport while the read loop waits for a stream's reader:
// an end of the transport would otherwise show only after the wait. It needs no
// goroutine, and no timer while the read loop reads.
//
// A peer's close that has bytes before it which find no room here does not even
// arrive (RFC 9293, section 3.10.4). But its host answers what is sent to it now with
// a reset, so that each look is followed by a frame.
type stallWatch struct {
	mu       sync.Mutex
	timer    *time.Timer // nil before the first wait
	running  bool
	over     bool
	progress uint64 // Conn.progress at the last look
	looks    int    // since it has changed
}

// begin is called at the beginning of each wait, of which there may be many.
func (v *stallWatch) begin(c *Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.running || v.over || c.cfg.PeerClosed == nil:
		return
	case v.timer == nil:
		v.timer = time.AfterFunc(watchPause, func() { v.look(c) })
	default:
		v.timer.Reset(watchPause)
	}
	v.running = true
}

// look asks, and goes on as long as the read loop waits.
func (v *stallWatch) look(c *Conn) {
	if c.readStall.Load() != 0 && v.stuck(c.progress.Load()) && c.cfg.PeerClosed() {
		c.fail(io.ErrUnexpectedEOF, false, 0)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.running = c.readStall.Load() != 0 && !v.over
	if v.running {
		// No room for it means that there is more than enough under way.
		_ = c.send.enqueueControl(c.cfg.probe())
		v.timer.Reset(watchPause)
	}
}

// stuck says whether nothing was read for so long that nothing is going to be.
func (v *stallWatch) stuck(progress uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.progress != progress {
		v.progress, v.looks = progress, 0
	}
	v.looks++
	return v.looks >= watchPatience
}

func (v *stallWatch) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	if v.timer != nil {
		v.timer.Stop()
	}
}
