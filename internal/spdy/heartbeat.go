package spdy

import (
	"sync"
	"time"
)

// heartbeat sends the pings of a tunnel and gives it up when nothing comes back.
// It needs no goroutine: a timer runs the next ping, or the check of those before.
type heartbeat struct {
	conn *Conn

	mu       sync.Mutex
	timer    *time.Timer // nil when there are no pings, or no more
	id       uint32      // of the last ping
	sent     time.Time   // when the last one was due
	progress uint64      // frames that had come when it was sent
	silent   time.Time   // when the first ping was due that nothing has come after; zero if something has
}

func (b *heartbeat) start(c *Conn) {
	if c.cfg.PingInterval <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = c
	b.id = c.cfg.firstID() - 2 // wraps; ping adds 2 first
	b.timer = time.AfterFunc(c.cfg.PingInterval, b.run)
}

func (b *heartbeat) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

// now sends a ping beside those that are due.
func (b *heartbeat) now() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.ping()
	}
}

func (b *heartbeat) run() {
	if !b.step() {
		b.conn.fail(ErrPingTimeout, true, goAwayOK)
	}
}

// step does what the timer is for and sets it again. It returns false when the
// peer is dead.
func (b *heartbeat) step() (alive bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer == nil {
		return true
	}
	cfg, now := b.conn.cfg, time.Now()
	if !b.silent.IsZero() && b.answered() {
		b.silent = time.Time{}
	}
	if !b.silent.IsZero() && now.Sub(b.silent) >= cfg.PingTimeout {
		return false
	}
	if now.Sub(b.sent) >= cfg.PingInterval {
		b.ping()
		b.sent = now
		if b.silent.IsZero() && cfg.PingTimeout > 0 {
			b.silent = now
		}
	}
	next := b.sent.Add(cfg.PingInterval)
	if check := b.silent.Add(cfg.PingTimeout); !b.silent.IsZero() && check.Before(next) {
		next = check
	}
	b.timer.Reset(max(next.Sub(now), time.Millisecond))
	return true
}

// ping sends the next ping. One that finds no room among all that the peer has
// left unread would tell it nothing.
func (b *heartbeat) ping() {
	if b.conn.cfg.Probe {
		_ = b.conn.send.enqueueControl(b.conn.cfg.probe())
		return
	}
	b.id += 2
	b.progress = b.conn.progress.Load()
	_ = b.conn.send.enqueueControl(control{kind: kindPing, value: b.id})
}

// answered reports whether anything came since the last ping. While our own reader
// holds up the read loop, an answer would not be seen.
func (b *heartbeat) answered() bool {
	return b.conn.progress.Load() != b.progress || b.conn.readStall.Load() != 0
}
