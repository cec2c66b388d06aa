package spdy

import (
	"io"
	"sync"
	"time"
)

const (
	// watchPause is how often it is checked whether the peer of a transport that is not
	// being read still exists.
	watchPause = 250 * time.Millisecond
	// watchPatience is after how many checks in a row, between which nothing was read, the
	// tunnel of a peer that has closed is given up, with what is left to read.
	watchPatience = 8
)

// stallWatch watches the transport while the read loop waits for a stream's reader: otherwise
// an end of the transport would be noticed only after the wait. It needs no goroutine, and no
// timer while the read loop reads.
//
// When the peer closes the transport and there is no room here for the bytes before that, the
// close itself does not arrive (RFC 9293, section 3.10.4). But its host answers anything sent
// to it now with a reset; hence each check is followed by a frame.
type stallWatch struct {
	mu       sync.Mutex
	timer    *time.Timer // nil before the first wait
	running  bool
	over     bool
	progress uint64 // Conn.progress at the last check
	checks   int    // since it has changed
}

// begin is called at the beginning of each wait, of which there may be many.
func (v *stallWatch) begin(c *Conn) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.running || v.over || c.cfg.PeerClosed == nil:
		return
	case v.timer == nil:
		v.timer = time.AfterFunc(watchPause, func() { v.check(c) })
	default:
		v.timer.Reset(watchPause)
	}
	v.running = true
}

// check asks whether the peer has closed, and is called again while the read loop waits.
func (v *stallWatch) check(c *Conn) {
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

// stuck reports whether nothing was read for so long that nothing is going to be.
func (v *stallWatch) stuck(progress uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.progress != progress {
		v.progress, v.checks = progress, 0
	}
	v.checks++
	return v.checks >= watchPatience
}

func (v *stallWatch) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	if v.timer != nil {
		v.timer.Stop()
	}
}
