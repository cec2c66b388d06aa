package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/portforward"
)

const (
	firstPause = 50 * time.Millisecond
	// maxPause is short, so that it is noticed soon when a route works again.
	maxPause = 800 * time.Millisecond
	// maxLoginPause is maxPause where credentials are missing: each attempt may
	// start a plugin, which may write to the terminal, or open a browser.
	maxLoginPause = 10 * time.Second
	// retrySpace is between any two retries of a process.
	retrySpace = 100 * time.Millisecond
	// maxRetryAfter bounds what servers ask for.
	maxRetryAfter = 10 * time.Minute
)

// pauseAfter is how long to pause after an attempt failed with err.
func pauseAfter(b *backoff.Backoff, err error) time.Duration {
	if errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrCredentials) {
		return b.Next(firstPause, maxLoginPause)
	}
	return b.Next(firstPause, maxPause)
}

// RetryLimiter spaces out retries over all Clusters that share it: ten a second at
// most. The zero value is ready to use.
type RetryLimiter struct {
	mu   sync.Mutex
	next time.Time
}

// reserve takes the next turn, and returns how long it is until then.
func (l *RetryLimiter) reserve() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.next.Before(now) {
		l.next = now
	}
	turn := l.next
	l.next = turn.Add(retrySpace)
	return turn.Sub(now)
}

// waitToRetry waits for a pause and then for the retry's turn; each ends early with
// wake or ctx.
func (c *Cluster) waitToRetry(ctx context.Context, pause time.Duration, wake <-chan struct{}) {
	backoff.Sleep(ctx, pause, wake)
	backoff.Sleep(ctx, c.retries.reserve(), wake)
}

// pauseTunnels returns portforward.Client's Again for one pod.
func (c *Cluster) pauseTunnels() func(ctx context.Context, failures int, err error) {
	var pause backoff.Backoff
	return func(ctx context.Context, failures int, err error) {
		if failures <= 1 {
			pause.Reset()
		}
		var wake <-chan struct{}
		if refusal(err) == 0 {
			wake = c.recovery.wait()
		}
		rest := pauseAfter(&pause, c.serverError(err))
		var status *portforward.StatusError
		if errors.As(err, &status) && status.RetryAfter > rest {
			rest = min(status.RetryAfter, maxRetryAfter)
			rest += rand.N(min(rest/4, time.Second) + 1)
		}
		c.waitToRetry(ctx, rest, wake)
	}
}
