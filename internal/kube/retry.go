package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/portforward"
)

const (
	firstPause = 50 * time.Millisecond
	// maxPause keeps a route that is back from being noticed late.
	maxPause = 800 * time.Millisecond
	// maxLoginPause is the same where credentials are missing: each attempt may
	// start a plugin, which may write to the terminal, or open a browser.
	maxLoginPause = 10 * time.Second
	// attemptSpace is between any two attempts of a process that follow a failure.
	attemptSpace = 100 * time.Millisecond
	// maxRetryAfter bounds what servers ask for.
	maxRetryAfter = 10 * time.Minute
)

// RetryLimiter spaces out what is tried again after it has failed, over all Clusters
// that share it: ten a second at most. The zero value is ready to use.
type RetryLimiter struct {
	mu   sync.Mutex
	next time.Time
}

// wait waits for its turn, for wake or for the end of ctx.
func (a *RetryLimiter) wait(ctx context.Context, wake <-chan struct{}) {
	a.mu.Lock()
	now := time.Now()
	if a.next.Before(now) {
		a.next = now
	}
	rest := a.next.Sub(now)
	a.next = a.next.Add(attemptSpace)
	a.mu.Unlock()
	backoff.Sleep(ctx, rest, wake)
}

// pauseAfter is how long to wait after an attempt failed with err.
func pauseAfter(b *backoff.Backoff, err error) time.Duration {
	if errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrCredentials) {
		return b.Next(firstPause, maxLoginPause)
	}
	return b.Next(firstPause, maxPause)
}

// again returns what has one pod's tunnels wait after a failure, whoever waits for
// them; it is called by one goroutine at a time.
func (c *Cluster) again() func(ctx context.Context, failures int, err error) {
	var pause backoff.Backoff
	return func(ctx context.Context, failures int, err error) {
		if failures <= 1 {
			pause.Reset()
		}
		var wake <-chan struct{}
		if !answered(err) {
			wake = c.recovery.wait()
		}
		rest := pauseAfter(&pause, c.openingFailed(err))
		var status *portforward.StatusError
		if errors.As(err, &status) && status.RetryAfter > rest {
			rest = min(status.RetryAfter, maxRetryAfter)
			rest += rand.N(min(rest/4, time.Second) + 1)
		}
		backoff.Sleep(ctx, rest, wake)
		c.retries.wait(ctx, wake)
	}
}

// answered says whether an error is an answer of the API server, or of what stands
// before it: then the way there is fine.
func answered(err error) bool {
	var status *portforward.StatusError
	return errors.As(err, &status)
}

// reached tells those who wait when the API server answers again that did not.
type recovery struct {
	mu   sync.Mutex
	lost bool
	back chan struct{} // closed when it answers; nil while nobody waits
}

func (r *recovery) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.back == nil {
		r.back = make(chan struct{})
	}
	return r.back
}

// note takes down whether there was an answer.
func (r *recovery) note(answer bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if answer && r.lost && r.back != nil {
		close(r.back)
		r.back = nil
	}
	r.lost = !answer
}

// noting is a transport that notes whether there are answers.
type noting struct {
	http.RoundTripper
	*recovery
}

func (n noting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.RoundTripper.RoundTrip(req)
	if err == nil || req.Context().Err() == nil {
		n.note(err == nil)
	}
	return resp, err
}

// WrappedRoundTripper is how client-go finds the transport within.
func (n noting) WrappedRoundTripper() http.RoundTripper { return n.RoundTripper }
