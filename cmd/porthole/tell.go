package main

import (
	"fmt"
	"io"
	"time"

	"porthole.dev/porthole/internal/forward"
)

// teller prints what happens in a session: on stdout the lines of kubectl,
// which scripts read, on stderr what went wrong. It never makes a connection
// wait for whoever reads the output: lines that find its queue full are dropped.
type teller struct {
	name     string // of the target
	out, err io.Writer
	lines    chan line
	done     chan struct{}
}

type line struct {
	to   io.Writer
	text string
}

// queue is how many lines may wait for a slow reader.
const queue = 1024

// newTeller starts a teller; close ends it.
func newTeller(out, err io.Writer, name string) *teller {
	t := &teller{name: name, out: out, err: err, lines: make(chan line, queue), done: make(chan struct{})}
	go t.print()
	return t
}

func (t *teller) print() {
	defer close(t.done)
	for l := range t.lines {
		fmt.Fprintln(l.to, l.text)
	}
}

func (t *teller) say(to io.Writer, format string, args ...any) {
	select {
	case t.lines <- line{to, fmt.Sprintf(format, args...)}:
	default:
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

func (t *teller) listening(l *forward.Listener) {
	// Scripts wait for this line: it is never dropped.
	t.lines <- line{t.out, fmt.Sprintf("Forwarding from %s -> %d", l.Local, l.Remote)}
}

// event is a session's Events.
func (t *teller) event(e forward.Event) {
	switch e.Kind {
	case forward.Opened:
		t.say(t.out, "Handling connection for %d", e.Listen.Port())
	case forward.Failed:
		t.say(t.err, "porthole: connection for %d: %s port %d: %s", e.Listen.Port(), t.name, e.Remote, words(e.Err))
	case forward.Draining:
		t.say(t.err, "porthole: giving %d live connections %v to finish; once more to end them now", e.Live, drain)
	}
}
