package kube

import (
	"context"
	"errors"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/tunnel"
)

const (
	// maxReopens is how often a connection is opened again. The sandbox of a pod may
	// be replaced while the connection is being opened.
	maxReopens = 3
	// maxRefusals is how often besides after the far end has refused it, which it does while it
	// has too many: from the second time on after a pause, of 5 seconds in all.
	maxRefusals     = 16
	minRefusalPause = 20 * time.Millisecond
	maxRefusalPause = 500 * time.Millisecond
)

// reopens counts how often a connection is opened again.
type reopens struct {
	reopened int             // times
	refused  int             // times
	pause    backoff.Backoff // after refusals
}

// again counts an error, and reports whether the connection is opened once more.
func (r *reopens) again(ctx context.Context, err error) bool {
	if !errors.Is(err, tunnel.ErrRefused) {
		r.reopened++
		return r.reopened <= maxReopens
	}
	if r.refused++; r.refused > 1 {
		backoff.Sleep(ctx, r.pause.Next(minRefusalPause, maxRefusalPause), nil)
	}
	return r.refused <= maxRefusals && ctx.Err() == nil
}

// nothingDone says whether an error means that the far end has done nothing for the
// connection.
func nothingDone(err error) bool {
	return errors.Is(err, tunnel.ErrNoSandbox) || errors.Is(err, tunnel.ErrRefused)
}
