package kube

import (
	"context"
	"net"
	"testing"
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
