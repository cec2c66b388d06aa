package tunnel

import (
	"context"
	"net"
	"testing"
)

// closedConn stands for a connection that was given up.
type closedConn struct{ Replayable }

// Of a connection that another goroutine has replaced, whoever still uses the old one
// hears no more than that it is closed. That is no failure of the new one.
func TestReplacedConnectionIsNoFailure(t *testing.T) {
	before, now := &closedConn{}, &closedConn{}
	c := NewReplayed(t.Context(), now, Reopening{NothingDone: func(error) bool { return false }})
	if err := c.reopen(before, net.ErrClosed); err != nil {
		t.Errorf("the connection that was replaced: %v", err)
	}
	if err := c.reopen(now, net.ErrClosed); err == nil {
		t.Error("the one that is closed is taken for one that goes on")
	}
}

// Whether a connection is opened again is asked once, though reads, writes and the watch of its loss all fail.
func TestGivenUpOnce(t *testing.T) {
	conn, asked := &closedConn{}, 0
	c := NewReplayed(t.Context(), conn, Reopening{
		NothingDone: func(error) bool { return true },
		Again:       func(context.Context, error) bool { asked++; return false },
	})
	for range 3 {
		if err := c.reopen(conn, net.ErrClosed); err == nil {
			t.Error("it is taken for one that goes on")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
