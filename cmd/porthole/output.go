package main

import (
	"bytes"
	"context"
	"errors"
	"io"
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
	writing chan struct{} // has room for one
}

func newOutput(ctx context.Context, to io.Writer) *output {
	return &output{to: to, ctx: ctx, writing: make(chan struct{}, 1)}
}

// Write implements io.Writer. After errUnread the reader may get it nevertheless, later.
func (o *output) Write(p []byte) (int, error) {
	select {
	case o.writing <- struct{}{}:
	default:
		return 0, errUnread // an earlier write still waits
	}
	written := make(chan error, 1)
	go func(p []byte) {
		_, err := o.to.Write(p)
		<-o.writing
		written <- err
	}(bytes.Clone(p))
	late, stop := context.WithCancel(context.Background())
	defer stop()
	defer context.AfterFunc(o.ctx, func() { time.AfterFunc(lastWords, stop) })()
	select {
	case err := <-written:
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case <-late.Done():
		return 0, errUnread
	}
}
