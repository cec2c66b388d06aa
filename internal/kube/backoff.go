package kube

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 50 * time.Millisecond
	// maxPause keeps a route that is back from being noticed late.
	maxPause = 800 * time.Millisecond
)

// backoff spaces out attempts that fail.
type backoff struct{ last time.Duration }

// next is how long to wait before the next attempt: twice as long as the last
// time up to maxPause, less a random part so that clients do not come all at once.
func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, firstPause), maxPause)
	return b.last/2 + rand.N(b.last/2)
}

func (b *backoff) reset() { b.last = 0 }

// wait waits for next, for wake or for the end of ctx.
func (b *backoff) wait(ctx context.Context, wake <-chan struct{}) {
	timer := time.NewTimer(b.next())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
