package kube

import (
	"context"
	"net"
	"testing"

	"porthole.dev/porthole/internal/tunnel"
)

// closedTunnelConn stands for a connection that was given up.
type closedTunnelConn struct{ tunnelConn }

// Of a connection that another goroutine has replaced, whoever still uses the old one
// hears no more than that it is closed. That is no failure of the new one.
func TestReplacedConnectionIsNoFailure(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	defer end()
	before, now := &closedTunnelConn{}, &closedTunnelConn{}
	c := &replayConn{conn: now, life: life, end: end}
	if err := c.reopen(before, net.ErrClosed); err != nil {
		t.Errorf("the connection that was replaced: %v", err)
	}
	if err := c.reopen(now, net.ErrClosed); err == nil {
		t.Error("the one that is closed is taken for one that goes on")
	}
}

// What the far end refuses for want of room is opened again for seconds, and what has lost its sandbox a few
// times at once.
func TestReopensAreBounded(t *testing.T) {
	life, end := context.WithCancel(t.Context())
	for _, c := range []struct {
		err  error
		want int
	}{{tunnel.ErrNoSandbox, maxReopens}, {tunnel.ErrRefused, maxRefusals}} {
		conn, times := &replayConn{life: life}, 0
		for conn.mayReopen(c.err) {
			times++
		}
		if times != c.want {
			t.Errorf("%v: opened again %d times, want %d", c.err, times, c.want)
		}
	}
	end()
	if conn := (&replayConn{life: life}); conn.mayReopen(tunnel.ErrRefused) {
		t.Error("a connection that was closed is opened again")
	}
}
