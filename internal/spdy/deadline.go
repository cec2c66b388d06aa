package spdy

import (
	"sync"
	"time"
)

// deadline is one direction's deadline of a stream. Whoever waits under mu
// looks at passed, and is woken by wake when it turns true.
type deadline struct {
	mu    sync.Locker
	wake  func() // called with mu held
	timer *time.Timer
	epoch int // tells a timer that was replaced while it fired

	passed bool // guarded by mu
}

// set arms the deadline for t; the zero time disarms it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		d.wake()
		return
	}
	epoch := d.epoch
	d.timer = time.AfterFunc(left, func() { d.expire(epoch) })
}

// stop disarms the timer; mu is held.
func (d *deadline) stop() {
	d.epoch++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) expire(epoch int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epoch == epoch {
		d.passed = true
		d.wake()
	}
}
