package kube

// Kind says what an Event tells.
type Kind string

// The kinds of Event.
const (
	Waiting      Kind = "waiting"      // no pod is ready yet; Err says why
	Ready        Kind = "ready"        // connections go through, or go to another pod from now on; Pod is set
	Reconnecting Kind = "reconnecting" // connections have to wait; Err says why
)

// Event is a change of a Route. Of each change there is one.
type Event struct {
	Kind Kind
	Pod  string // that connections lead to; the first of several where they are spread
	Err  error
}
