package kube

import (
	"errors"
	"testing"
	"time"

	"porthole.dev/porthole/internal/backoff"
)

// A route that may come back by itself is tried often; one for which somebody has
// to log in is not.
func TestBackoff(t *testing.T) {
	for name, each := range map[string]struct {
		err   error
		limit time.Duration
	}{
		"unreachable":  {&ServerError{Kind: ErrUnreachable, Err: errors.New("refused")}, 800 * time.Millisecond},
		"none":         {nil, 800 * time.Millisecond},
		"unauthorized": {&ServerError{Kind: ErrUnauthorized, Err: errors.New("401")}, 10 * time.Second},
		"credentials":  {&ServerError{Kind: ErrCredentials, Err: errors.New("exec")}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var b backoff.Backoff
			if first := pauseAfter(&b, each.err); first > firstPause {
				t.Errorf("the first pause is %v", first)
			}
			for range 20 {
				pauseAfter(&b, each.err)
			}
			if last := pauseAfter(&b, each.err); last < each.limit/2 || last > each.limit {
				t.Errorf("the last pause is %v, want %v at most and half of it at least", last, each.limit)
			}
			if after := pauseAfter(&b, nil); after > maxPause {
				t.Errorf("the pause after that is %v", after)
			}
		})
	}
}
