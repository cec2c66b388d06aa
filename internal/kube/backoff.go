package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 50 * time.Millisecond
	// maxPause keeps a route that is back from being noticed late.
	maxPause = 800 * time.Millisecond
	// maxLoginPause is the same where credentials are missing: each attempt may
	// start a plugin, which may write to the terminal, or open a browser.
	maxLoginPause = 10 * time.Second
)

// backoff spaces out attempts that fail.
type backoff struct{ last time.Duration }

// next is how long to wait after an attempt failed with err: twice as long as the
// last time up to a limit, less a random part so that clients do not come all at
// once.
func (b *backoff) next(err error) time.Duration {
	limit := maxPause
	if errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrCredentials) {
		limit = maxLoginPause
	}
	b.last = min(max(2*b.last, firstPause), limit)
	return b.last*5/8 + rand.N(b.last*3/8)
}

func (b *backoff) reset() { b.last = 0 }

// wait waits for next, for wake or for the end of ctx.
func (b *backoff) wait(ctx context.Context, wake <-chan struct{}, err error) {
	sleep(ctx, b.next(err), wake)
}
