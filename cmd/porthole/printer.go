package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/safetext"
)

// style turns an event into lines for stdout and stderr; "" prints none.
type style interface {
	line(e route.Event) (out, err string)
}

// printer prints what happens in a session. It never makes a connection wait for the
// reader of its output: lines that do not fit into its queue are dropped and counted.
type printer struct {
	style    style
	out, err io.Writer
	unread   func() // called when the reader of out or err has gone; may be nil
	lines    chan lines
	dropped  atomic.Int64
	done     chan struct{}
}

type lines struct{ out, err string }

const (
	// queue is how many lines may wait for a slow reader.
	queue = 1024
	// rest is how long lines are gathered; a person does not notice the delay.
	rest = 5 * time.Millisecond
)

// newPrinter starts a printer; close ends it.
func newPrinter(out, err io.Writer, s style) *printer {
	p := &printer{style: s, out: out, err: err, lines: make(chan lines, queue), done: make(chan struct{})}
	go p.print()
	return p
}

// print writes all lines that are queued, and then rests, so that a burst of connections
// takes a few writes and wake-ups, not one for each line.
func (p *printer) print() {
	defer close(p.done)
	var out, errs bytes.Buffer
	for l := range p.lines {
		l.add(&out, &errs)
		for range len(p.lines) {
			(<-p.lines).add(&out, &errs)
		}
		if n := p.dropped.Swap(0); n > 0 {
			fmt.Fprintf(&errs, "porthole: %d lines were not read in time and are lost\n", n)
		}
		_, outErr := out.WriteTo(p.out)
		_, errsErr := errs.WriteTo(p.err)
		if p.unread != nil && (errors.Is(outErr, syscall.EPIPE) || errors.Is(errsErr, syscall.EPIPE)) {
			p.unread()
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
func (p *printer) event(e route.Event) {
	var l lines
	if l.out, l.err = p.style.line(e); l == (lines{}) {
		return
	}
	if e.Kind == route.Listening || e.Kind == route.Gone {
		p.lines <- l // never dropped, because scripts wait for it; no connection does yet
		return
	}
	select {
	case p.lines <- l:
	default:
		p.dropped.Add(1)
	}
}

// close prints what is queued, if the reader takes it within a second. No event may follow.
func (p *printer) close() {
	close(p.lines)
	select {
	case <-p.done:
	case <-time.After(time.Second):
	}
}
