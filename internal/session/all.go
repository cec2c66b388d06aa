package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

const (
	// maxAll is how many ports of one target are forwarded by All at once: the target chooses how many it has.
	maxAll = 1024
	// A port that listens no more is kept for minHold, in case its program is only started again. For one that
	// was closed and came back within maxHold the time doubles, up to that.
	minHold = time.Second
	maxHold = time.Minute
)

// ErrSameNetwork says that all ports of the network that porthole itself is in are asked for, those that it listens on among them.
var ErrSameNetwork = errors.New("it uses the network that porthole is in, where all that listens is reached already")

var (
	errNothingListens = errors.New("nothing listens there yet")
	errManyPorts      = fmt.Errorf("more than %d ports listen there, and the others are left out", maxAll)
)

// allPorts keeps a local port for each TCP port that listens at the target of a forward with All.
type allPorts struct {
	session *Session
	state   *State
	events  func(route.Event)
	later   chan<- *route.Listener // to the carrier

	listens   []target.Address // at the target, as was told last, and the same as a set: there may be many
	listening map[target.Address]bool
	ports     map[target.Address]*allPort

	told  string          // the last failure; "" when there was none since
	again time.Time       // when it is tried again what has failed; zero for nothing
	pause backoff.Backoff // before that
}

// allPort is a port that is forwarded, or was.
type allPort struct {
	listeners []*route.Listener // none while it is closed
	number    uint16            // of the listeners, which it gets again
	ended     time.Time         // when it was seen to listen no more; zero while it does
	hold      time.Duration     // how long it is kept then
}

// carryAll carries connections to whatever listens at a target, until ctx ends or that cannot be found out.
func (s *Session) carryAll(ctx context.Context, st *State, to *route.Result, ready route.Event) error {
	events := s.eventsOf(ctx, st.Forward)
	if to.Listening == nil {
		return fmt.Errorf("what listens there cannot be found out: %w", target.ErrUnsupported)
	}
	own, err := openOwnSocket(ctx)
	for ; err != nil; own, err = openOwnSocket(ctx) {
		s.report(ctx, report{state: st, err: err})
		if s.pause(ctx); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	defer own.Close()
	var work sync.WaitGroup
	defer work.Wait()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	later, listening := make(chan *route.Listener), make(chan []target.Socket)
	a := &allPorts{session: s, state: st, events: events, later: later, ports: map[target.Address]*allPort{}}
	work.Go(func() {
		stop(to.Listening(ctx, func(now []target.Socket) {
			if own.isAmong(now) {
				stop(ErrSameNetwork)
			}
			select {
			case listening <- now:
			case <-ctx.Done():
			}
		}))
	})
	work.Go(func() { a.follow(ctx, listening, ready) })
	carrier := s.carrier(st.Forward, to, events)
	carrier.Later = later
	if err := carrier.Run(ctx, nil); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// follow opens and closes local ports as the target's come and go, until ctx ends.
func (a *allPorts) follow(ctx context.Context, listening <-chan []target.Socket, ready route.Event) {
	begun := false
	for {
		var wake <-chan time.Time
		if at := a.nextTime(); !at.IsZero() {
			wake = time.After(time.Until(at))
		}
		told := false
		select {
		case now := <-listening:
			a.listens, a.listening = addressesOf(now, a.state.Except)
			a.markEnded(time.Now())
			told = true
		case <-wake:
		case <-ctx.Done():
			return
		}
		if ctx.Err() != nil {
			return // select chooses among what is ready by chance
		}
		changed := false
		if told || !a.again.IsZero() && !time.Now().Before(a.again) {
			changed = a.open(ctx)
		}
		changed = a.close(time.Now()) || changed
		if !begun {
			a.events(ready)
			begun, changed = true, true
			if len(a.listens) == 0 {
				a.events(route.Event{Kind: route.Waiting, Err: errNothingListens})
			}
		}
		if changed {
			a.session.report(ctx, report{state: a.state, listeners: a.listeners()})
		}
	}
}

// addressesOf returns what is to be forwarded, also as a set: each TCP port once, or for each address that it alone
// listens on.
func addressesOf(sockets []target.Socket, except target.PortSet) (all []target.Address, set map[target.Address]bool) {
	set = map[target.Address]bool{}
	everywhere := map[uint16]bool{} // ports of all addresses of a family
	for _, s := range sockets {
		everywhere[s.Port()] = everywhere[s.Port()] || s.Network == target.TCP && s.Addr().IsUnspecified()
	}
	for _, s := range sockets {
		a := s.Address()
		covered := a.Host != "" && everywhere[a.Port]
		if s.Network == target.TCP && !covered && !except.Contain(a.Port) && !set[a] {
			set[a], all = true, append(all, a)
		}
	}
	// The loopback's has the number before those of other addresses.
	slices.SortStableFunc(all, func(a, b target.Address) int { return min(len(a.Host), 1) - min(len(b.Host), 1) })
	return all, set
}

// markEnded notes since when ports listen no more.
func (a *allPorts) markEnded(now time.Time) {
	for to, p := range a.ports {
		listens := a.listening[to]
		switch {
		case len(p.listeners) == 0:
		case listens:
			p.ended = time.Time{}
		case p.ended.IsZero():
			p.ended = now
		}
	}
}

// nextTime returns when the next port is to be closed, or what has failed tried again, or the zero time.
func (a *allPorts) nextTime() (next time.Time) {
	next = a.again
	for _, p := range a.ports {
		if at := p.ended.Add(p.hold); len(p.listeners) > 0 && !p.ended.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// open listens for the ports that have come: first for those that have their own number here, so that it is
// not given to another. What fails, as without descriptors, is tried again later.
func (a *allPorts) open(ctx context.Context) (changed bool) {
	changed, failure := a.openEach(ctx, true)
	if failure == nil {
		var more bool
		more, failure = a.openEach(ctx, false)
		changed = changed || more
	}
	switch {
	case ctx.Err() != nil:
		return changed
	case failure == nil:
		a.told, a.again = "", time.Time{}
		a.pause.Reset()
		return changed
	case a.told != failure.Error():
		a.told = failure.Error()
		a.events(route.Event{Kind: route.Waiting, Err: failure})
	}
	a.again = time.Now().Add(a.pause.Next(relistenMin, relistenMax))
	return changed
}

// openEach listens for each port that has come, with its own number or any, until that fails as it would for the others.
func (a *allPorts) openEach(ctx context.Context, sameNumber bool) (changed bool, err error) {
	for _, to := range a.listens {
		p := a.ports[to]
		switch {
		case p != nil && len(p.listeners) > 0:
			continue
		case ctx.Err() != nil:
			return changed, ctx.Err()
		case a.count() >= maxAll:
			return changed, errManyPorts
		}
		listeners, err := a.listen(ctx, to, p, sameNumber)
		switch {
		case err == nil:
			a.begin(ctx, to, listeners)
			changed = true
		case !sameNumber || !isTaken(err):
			return changed, err
		}
	}
	return changed, nil
}

// isTaken reports whether a port cannot be bound which another number could be: EACCES is for those below 1024.
func isTaken(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
}

// listen binds the local port for one of the target's: with the number that it had, or its own, or the next one
// that is free.
func (a *allPorts) listen(ctx context.Context, to target.Address, p *allPort, sameNumber bool) ([]*route.Listener, error) {
	number := int(to.Port)
	if p != nil {
		number = int(p.number)
	}
	for {
		port := target.Port{Local: uint16(number), Host: to.Host, Remote: to.Port}
		listeners, err := forward.Listen(ctx, a.state.Addresses, []target.Port{port})
		switch {
		case err == nil || sameNumber || ctx.Err() != nil || number == 0:
			return listeners, err
		case !isTaken(err):
			return nil, err
		}
		for number++; number <= math.MaxUint16 && a.listening[target.TCPPort(uint16(number))]; number++ {
			// That number is for the target's own port.
		}
		if number > math.MaxUint16 {
			number = 0 // any free one
		}
	}
}

// begin hands new listeners to the carrier, and tells of them.
func (a *allPorts) begin(ctx context.Context, to target.Address, listeners []*route.Listener) {
	p := a.ports[to]
	switch {
	case p == nil:
		p = &allPort{hold: minHold}
		a.ports[to] = p
	case time.Since(p.ended) < maxHold:
		p.hold = min(2*p.hold, maxHold)
	default:
		p.hold = minHold
	}
	p.listeners, p.number, p.ended = listeners, listeners[0].Local.Port(), time.Time{}
	for _, l := range listeners {
		a.events(route.Event{Kind: route.Listening, Listen: l.Local, Remote: l.Remote})
		select {
		case a.later <- l:
		case <-ctx.Done():
			_ = l.Close()
		}
	}
}

// close closes the ports that have listened no more for long enough, and forgets those that will not have
// their number back.
func (a *allPorts) close(now time.Time) (changed bool) {
	for to, p := range a.ports {
		switch {
		case len(p.listeners) == 0 && len(a.ports) > 2*maxAll:
			delete(a.ports, to)
		case len(p.listeners) == 0 || p.ended.IsZero() || now.Sub(p.ended) < p.hold:
		default:
			forward.CloseAll(p.listeners)
			for _, l := range p.listeners {
				a.events(route.Event{Kind: route.Gone, Listen: l.Local, Remote: l.Remote})
			}
			p.listeners, p.ended, changed = nil, now, true
		}
	}
	return changed
}

func (a *allPorts) count() (n int) {
	for _, p := range a.ports {
		n += min(len(p.listeners), 1)
	}
	return n
}

// listeners returns all that are open, by the target's ports.
func (a *allPorts) listeners() []*route.Listener {
	all := []*route.Listener{} // not nil: the forward is open
	for _, p := range a.ports {
		all = append(all, p.listeners...)
	}
	slices.SortFunc(all, func(x, y *route.Listener) int {
		if x.Remote.Port != y.Remote.Port {
			return int(x.Remote.Port) - int(y.Remote.Port)
		}
		return x.Local.Compare(y.Local.AddrPort)
	})
	return all
}
