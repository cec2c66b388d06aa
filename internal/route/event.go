package route

import (
	"time"

	"porthole.dev/porthole/internal/target"
)

// Kind says what an Event tells.
type Kind string

// The kinds of Event. Those of a listener and of its connections carry Listen and Remote.
const (
	// A session tells of its listeners, and of what never becomes or is no longer one.
	Listening Kind = "listening" // a listener is bound
	Gone      Kind = "gone"      // a listener is closed, because nothing listens at Remote any more
	Ended     Kind = "ended"     // the target, or its Member, is gone for good, or cannot be reached at all; Err says why

	// A route tells of its target, and a session of one that could not be opened.
	Waiting      Kind = "waiting"      // there is nothing to reach yet; Err says why
	Ready        Kind = "ready"        // the target can be reached, at first or again
	Carried      Kind = "carried"      // connections go another way than the target has by itself; Via says which, and Err what is to be known of it
	Reconnecting Kind = "reconnecting" // the route is broken and being made again; Err says why

	// A forwarder tells of its connections.
	Opened   Kind = "opened"   // one was accepted; Client is set
	Failed   Kind = "failed"   // it could not reach the target, or (Client not set) none can be accepted for now; Err is set
	Closed   Kind = "closed"   // it has ended; bytes and Duration are set, and Err unless both sides ended it cleanly
	Draining Kind = "draining" // the session ends, and waits for Live connections that are in use
)

// Event is one thing that happened in a session. Whoever knows of it makes it.
type Event struct {
	Kind      Kind
	Target    string          // the forward's name; a route leaves it to the session
	Member    string          // of the target, that this is about; "" where it is forwarded to as a whole
	Pod       string          // that connections go to from now on, the first of several; "" where the target has none
	Reverse   bool            // of the way back: Listen is at the target, and Remote is here
	Listen    target.Endpoint // what is listened on
	Remote    target.Address  // that it leads to
	PodPort   uint16          // of Listening: what Remote, a service's port, is at its pod now; 0 for the same
	Via       target.Via      // of Carried
	Container string          // of Carried: the ephemeral container of Pod's that carries; "" if none does
	Found     bool            // of Carried: it was there already
	Again     bool            // of Ready: it could not be reached for a while
	Version   string          // of Ready and Carried: that of porthole at the far end, if it is another one than here
	Client    target.Endpoint // who connected; it has no address at a Unix socket
	Sent      int64           // bytes delivered to the target
	Received  int64           // bytes delivered to the client
	Dropped   int64           // datagrams that could not be delivered, to either side
	Duration  time.Duration   // from accept to end
	Live      int             // connections
	Err       error
}
