package forward

import (
	"net/netip"
	"time"
)

// Kind says what an Event tells.
type Kind string

// The kinds of Event. All but Draining carry Listen and Remote.
const (
	Opened   Kind = "opened"   // a connection was accepted; Client is set
	Failed   Kind = "failed"   // it could not reach the target, or (Client not set) none can be accepted for now; Err is set
	Closed   Kind = "closed"   // it has ended; bytes and Duration are set, and Err unless both sides ended it cleanly
	Draining Kind = "draining" // the session ends and waits for Live connections
)

// Event is one thing that happened in a session.
type Event struct {
	Kind     Kind
	Listen   netip.AddrPort // local address that is listened on
	Remote   uint16         // port at the target
	Client   netip.AddrPort // who connected
	Sent     int64          // bytes delivered to the target
	Received int64          // bytes delivered to the client
	Duration time.Duration  // from accept to end
	Live     int            // connections
	Err      error
}
