package portforward

import (
	"sync"
	"time"
)

// deadline is a point in time that can be waited for and moved. The zero value is
// never reached.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{}
}

// done returns a channel that is closed when the deadline has passed, and that a
// later set keeps using unless it was closed.
func (d *deadline) done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	passed := d.channel()
	if d.timer != nil && !d.timer.Stop() {
		<-passed // the timer has fired: its func closes the channel
	}
	d.timer = nil
	select {
	case <-passed:
		d.passed = nil
		passed = d.channel()
	default:
	}
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		close(passed)
	default:
		d.timer = time.AfterFunc(left, func() { close(passed) })
	}
}
