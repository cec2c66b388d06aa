// Package backoff says how long to wait before something that has failed is tried again.
// It must not know what is tried.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces out attempts that fail. The zero value is ready to use.
type Backoff struct{ last time.Duration }

// Next is how long to wait after another failure: first, then twice as long as the
// last time up to most, less a random part so that clients do not come all at once.
func (b *Backoff) Next(first, most time.Duration) time.Duration {
	b.last = min(max(2*b.last, first), most)
	return b.last*5/8 + rand.N(b.last*3/8)
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.last = 0 }

// Failing reports whether something has failed since the last success.
func (b *Backoff) Failing() bool { return b.last > 0 }

// Sleep waits for a time, for wake (nil is never) or for the end of ctx.
func Sleep(ctx context.Context, rest time.Duration, wake <-chan struct{}) {
	if rest <= 0 {
		return
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
