package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/safetext"
)

// style words an event for stdout and stderr; "" is for nothing.
type style interface {
	line(e forward.Event) (out, err string)
}

// teller prints what happens in a session. It never makes a connection wait for
// whoever reads the output: lines that find its queue full are dropped, and
// counted.
type teller struct {
	style    style
	out, err io.Writer
	unread   func() // called when the reader of out or err has gone; nil is for nobody
	lines    chan lines
	dropped  atomic.Int64
	done     chan struct{}
}

type lines struct{ out, err string }

const (
	// queue is how many lines may wait for a slow reader.
	queue = 1024
	// rest is how long the printer gathers lines; a person does not notice.
	rest = 5 * time.Millisecond
)

// newTeller starts a teller; close ends it.
func newTeller(out, err io.Writer, s style) *teller {
	t := &teller{style: s, out: out, err: err, lines: make(chan lines, queue), done: make(chan struct{})}
	go t.print()
	return t
}

// print writes at once what has come, and then rests, so that a burst of
// connections is a few writes and wake-ups, not one for each line.
func (t *teller) print() {
	defer close(t.done)
	var out, errs bytes.Buffer
	for l := range t.lines {
		l.add(&out, &errs)
		for range len(t.lines) {
			(<-t.lines).add(&out, &errs)
		}
		if n := t.dropped.Swap(0); n > 0 {
			fmt.Fprintf(&errs, "porthole: %d lines were not read in time and are lost\n", n)
		}
		_, outErr := out.WriteTo(t.out)
		_, errsErr := errs.WriteTo(t.err)
		if t.unread != nil && (errors.Is(outErr, syscall.EPIPE) || errors.Is(errsErr, syscall.EPIPE)) {
			t.unread()
		}
		time.Sleep(rest)
	}
}

func (l lines) add(out, errs *bytes.Buffer) {
	if l.out != "" {
		fmt.Fprintln(out, safetext.Line(l.out))
	}
	if l.err != "" {
		fmt.Fprintln(errs, safetext.Line(l.err))
	}
}

// event is a session's Events.
func (t *teller) event(e forward.Event) {
	var l lines
	if l.out, l.err = t.style.line(e); l == (lines{}) {
		return
	}
	if e.Kind == forward.Listening {
		t.lines <- l // scripts wait for this one, and nothing else waits for it
		return
	}
	select {
	case t.lines <- l:
	default:
		t.dropped.Add(1)
	}
}

// close prints what is queued, if somebody reads it. No event may come after it.
func (t *teller) close() {
	close(t.lines)
	select {
	case <-t.done:
	case <-time.After(time.Second):
	}
}
