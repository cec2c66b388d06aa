package kube

import (
	"context"
	"testing"

	"porthole.dev/porthole/internal/tunnel"
)

// What the far end refuses for want of room is opened again for seconds, and what has lost its sandbox a few
// times at once.
func TestReopensAreBounded(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	for _, c := range []struct {
		err  error
		want int
	}{{tunnel.ErrNoSandbox, maxReopens}, {tunnel.ErrRefused, maxRefusals}} {
		counts, times := reopens{}, 0
		for counts.again(life, c.err) {
			times++
		}
		if times != c.want {
			t.Errorf("%v: opened again %d times, want %d", c.err, times, c.want)
		}
	}
	end()
	if counts := (reopens{}); counts.again(life, tunnel.ErrRefused) {
		t.Error("a connection that was closed is opened again")
	}
}
