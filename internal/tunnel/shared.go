package tunnel

import (
	"context"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
)

// Shared is a tunnel that many use: it is opened when the first of them asks for it, and again
// after it was lost. Set the fields, and call Close in the end. Its methods are safe to call at
// the same time.
type Shared struct {
	// Open makes one attempt to open the tunnel, until ctx ends.
	Open func(ctx context.Context) (*Client, error)
	// MinPause and MaxPause bound the pauses before attempts that follow one that failed.
	MinPause, MaxPause time.Duration

	once sync.Once
	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	client  *Client       // nil before the first, and after a failure
	opening chan struct{} // closed when an attempt is over; nil while none is under way
	err     error         // of the last attempt
	pause   backoff.Backoff
}

func (s *Shared) init() { s.life, s.end = context.WithCancel(context.Background()) }

// Client returns the tunnel, or opens one. Whoever waits waits for the same attempt; the first
// one that fails does so at once, and later ones come after a pause. ctx ends the wait, and not
// the attempt.
func (s *Shared) Client(ctx context.Context) (*Client, error) {
	s.once.Do(s.init)
	s.mu.Lock()
	if s.client != nil && s.client.Err() == nil {
		defer s.mu.Unlock()
		return s.client, nil
	}
	if s.opening == nil {
		if s.life.Err() != nil {
			defer s.mu.Unlock()
			return nil, context.Cause(s.life)
		}
		s.opening = make(chan struct{})
		s.work.Go(s.open)
	}
	opening := s.opening
	s.mu.Unlock()
	select {
	case <-opening:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil, s.err
	}
	return s.client, nil
}

// open makes one attempt.
func (s *Shared) open() {
	s.mu.Lock()
	rest := time.Duration(0)
	if s.pause.Failing() {
		rest = s.pause.Next(s.MinPause, s.MaxPause)
	}
	s.client = nil
	s.mu.Unlock()
	backoff.Sleep(s.life, rest, nil)
	client, err := s.Open(s.life)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client, s.err = client, err; err == nil {
		s.pause.Reset()
	} else if !s.pause.Failing() {
		s.pause.Next(s.MinPause, s.MaxPause)
	}
	if s.life.Err() != nil && s.client != nil {
		s.client, s.err = nil, context.Cause(s.life)
		s.work.Go(func() { client.Close() })
	}
	close(s.opening)
	s.opening = nil
}

// Close ends the tunnel, and the attempt that is under way. It returns when both are over.
func (s *Shared) Close() {
	s.once.Do(s.init)
	s.end()
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client != nil {
		client.Close()
	}
	s.work.Wait()
}
