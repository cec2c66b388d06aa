package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// lastWords is how long a reader that has stalled may take, once porthole is to end, to read what is printed.
const lastWords = time.Second

var errUnread = errors.New("what porthole prints is not read")

// output is stdout or stderr, whose reader may stall. A write waits for the reader until ctx ends, and lastWords
// more, so that the program can end in order. There is one Write at a time.
type output struct {
	to      io.Writer
	ctx     context.Context
	writing sync.Mutex // held until to has taken what was written, also after Write has given up
}

func newOutput(ctx context.Context, to io.Writer) *output { return &output{to: to, ctx: ctx} }

// Write implements io.Writer. After errUnread the reader may get it nevertheless, later.
func (o *output) Write(p []byte) (int, error) {
	if !o.writing.TryLock() {
		return 0, errUnread // an earlier write still waits
	}
	// A goroutine of its own, because a write to a pipe or terminal cannot be interrupted.
	written := make(chan error, 1)
	go func(p []byte) {
		_, err := o.to.Write(p)
		o.writing.Unlock()
		written <- err
	}(bytes.Clone(p))
	var late <-chan time.Time
	for ended := o.ctx.Done(); ; {
		select {
		case err := <-written:
			if err != nil {
				return 0, err
			}
			return len(p), nil
		case <-ended:
			ended, late = nil, time.After(lastWords)
		case <-late:
			return 0, errUnread
		}
	}
}
