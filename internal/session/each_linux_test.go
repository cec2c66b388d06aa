package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/session"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// crew are the members of a target, as a test sets them.
type crew struct {
	now chan []route.Member
}

func (c *crew) expand(ctx context.Context, _ target.Forward, _ func(route.Event), tell func([]route.Member)) error {
	for {
		select {
		case all := <-c.now:
			tell(all)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reachable is a member that leads to this machine.
func reachable(name string, place int) route.Member {
	return route.Member{Name: name, Place: place, Open: host{}.open}
}

// unreachable is a member that cannot be opened.
func unreachable(name string, place int) route.Member {
	return route.Member{Name: name, Place: place, Open: func(context.Context, target.Forward, func(route.Event)) (*route.Result, error) {
		return nil, errNever
	}}
}

// stsForward is a forward to each pod of a StatefulSet at any free port.
func stsForward(t *testing.T) target.Forward {
	f := forwardOf("", target.Kubernetes, echo(t))
	f.Target, f.Each = target.Target{Scheme: target.Kubernetes, Resource: "sts", Name: "db"}, target.EachPorts
	return f
}

// eachSession runs a session with a forward to each member at any free port; the names of members that
// listen arrive at the channel. end ends it, and returns its error.
func eachSession(t *testing.T, c *crew, s *session.Session) (listening chan string, end func() error) {
	listening = make(chan string, 100)
	if s.Forwards == nil {
		s.Forwards = []target.Forward{stsForward(t)}
	}
	s.Expanders = map[target.Scheme]route.Expander{target.Kubernetes: c.expand}
	s.Ready = func(all []session.State) error {
		var names []string
		for _, st := range all {
			if len(st.Listeners) > 0 {
				names = append(names, st.Member)
			}
		}
		listening <- strings.Join(names, " ")
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return listening, func() error {
		stop()
		return <-ended
	}
}

// await waits until the members that listen are those.
func await(t *testing.T, listening <-chan string, want string) {
	t.Helper()
	last, patience := "", time.After(testenv.Patience)
	for {
		select {
		case last = <-listening:
			if last == want {
				return
			}
		case <-patience:
			t.Fatalf("%q listen, want %q", last, want)
		}
	}
}

// awaitEvent waits until an event is told.
func awaitEvent(t *testing.T, seen *recorder, want string) {
	t.Helper()
	for end := time.Now().Add(testenv.Patience); !slices.Contains(seen.events(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("events %q lack %q", seen.events(), want)
		}
	}
}

// Members come and go, each with listeners of its own. Those of the start are waited for.
func TestEach(t *testing.T) {
	testenv.NoLeaks(t)
	c, seen := &crew{make(chan []route.Member)}, &recorder{}
	listening, end := eachSession(t, c, &session.Session{Events: seen.event})
	c.now <- []route.Member{reachable("db-0", 0), reachable("db-2", 2)}
	if first := <-listening; first != "db-0 db-2" {
		t.Errorf("ready with %q", first)
	}
	c.now <- []route.Member{reachable("db-0", 0), reachable("db-1", 1), reachable("db-2", 2)}
	await(t, listening, "db-0 db-1 db-2")
	c.now <- []route.Member{reachable("db-1", 1)}
	await(t, listening, "db-1")
	c.now <- nil // none is left, and the session stays
	await(t, listening, "")
	c.now <- []route.Member{reachable("db-0", 0)}
	await(t, listening, "db-0")
	if err := end(); err != nil {
		t.Errorf("ended with %v", err)
	}
	for _, want := range []string{"listening sts/db db-0", "ready sts/db db-0", "ended sts/db db-0", "ended sts/db db-2"} {
		if !slices.Contains(seen.events(), want) {
			t.Errorf("events %q lack %q", seen.events(), want)
		}
	}
}

// A member that fails is told and tried again, and the others go on. If all fail, so does
// the session.
func TestEachFails(t *testing.T) {
	testenv.NoLeaks(t)
	c, seen := &crew{make(chan []route.Member)}, &recorder{}
	listening, end := eachSession(t, c, &session.Session{Events: seen.event, ReadyAny: true})
	c.now <- []route.Member{unreachable("db-0", 0), reachable("db-1", 1)}
	await(t, listening, "db-1")
	awaitEvent(t, seen, "waiting db-0 db-0")
	if err := end(); err != nil {
		t.Errorf("ended with %v", err)
	}

	c = &crew{make(chan []route.Member)}
	s := &session.Session{Events: (&recorder{}).event}
	s.Forwards, s.Expanders = []target.Forward{stsForward(t)}, map[target.Scheme]route.Expander{target.Kubernetes: c.expand}
	go func() { c.now <- []route.Member{unreachable("db-0", 0), unreachable("db-1", 1)} }()
	var several session.Errors
	if err := s.Run(t.Context()); !errors.As(err, &several) || err.Error() != "db-0: "+errNever.Error()+"\ndb-1: "+errNever.Error() {
		t.Errorf("ended with %v", err)
	}
}

// A target that cannot be expanded ends a session that was typed.
func TestEachCannotBegin(t *testing.T) {
	testenv.NoLeaks(t)
	f := forwardOf("web", target.NetNS, target.Port{Remote: 1})
	f.Each = target.EachPorts
	s := &session.Session{Forwards: []target.Forward{f}, Events: (&recorder{}).event}
	if err := s.Run(t.Context()); !errors.Is(err, target.ErrEach) {
		t.Errorf("ended with %v", err)
	}
}

// The address of one member is taken by another program: it alone waits for that.
func TestEachTaken(t *testing.T) {
	testenv.NoLeaks(t)
	port := echo(t)
	port.Local = testenv.FreePort(t)
	taken, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.3:%d", port.Local))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f := forwardOf("db", target.Kubernetes, port)
	f.Each, f.Addresses = target.EachAddresses, []string{target.Localhost}
	c, seen := &crew{make(chan []route.Member)}, &recorder{}
	listening, end := eachSession(t, c, &session.Session{Forwards: []target.Forward{f}, Events: seen.event, ReadyAny: true})
	c.now <- []route.Member{reachable("db-0", 0), reachable("db-1", 1), reachable("db-2", 2)}
	await(t, listening, "db-0 db-2")
	awaitEvent(t, seen, "waiting db-1 db-1")
	_ = taken.Close()
	await(t, listening, "db-0 db-1 db-2")
	if err := end(); err != nil {
		t.Errorf("ended with %v", err)
	}
}
