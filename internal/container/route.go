package container

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/tunnel"
)

// Route leads to a container of an engine, or to those of a service in turn. It follows them: when one restarts, or is
// made again under its name, connections wait for it, and go on there.
type Route struct {
	opener  *Opener
	engine  *sharedEngine
	target  target.Target // by ID once it turns out that the name is the beginning of one
	context string        // of the engine; "" is the current one
	only    string        // the container of a pod whose Unix sockets are meant; "" for all
	via     target.Via
	ports   []target.Port
	events  func(route.Event) // called by begin and keep alone
	looks   chan struct{}     // asks keep to look for the containers
	pace    *rate.Limiter     // of looks

	life context.Context // ends with the container, whose end is its cause, or with Close
	end  context.CancelCauseFunc
	work sync.WaitGroup

	byID    bool   // the container is not followed to another one
	begun   bool   // begin has found them
	lost    bool   // told
	told    string // the last reason, so that each is told once
	onHost  bool   // told that there is no other network
	carried bool   // told that a helper container carries connections

	mu      sync.Mutex
	members []*member      // what connections can go to
	helped  []*helperRoute // of members, also of those that have ended
	next    int            // the number of the next connection
	why     error          // there are none
	looking int            // the number of the look that keep is at, or was at last
	looked  int            // the number of the last look that is over
	failed  error          // what look returned then
	changed chan struct{}  // closed when there are more members, or a look is over
}

const (
	// A look finds what events have missed: engines acknowledge that they follow events before they do.
	lookWaiting = time.Second
	lookRunning = 30 * time.Second
	// findTime is how long an engine may take to answer.
	findTime = 30 * time.Second
	// settleTime is how long a container that is found later may take until it listens.
	settleTime  = 5 * time.Second
	settlePause = 20 * time.Millisecond
	// endTime is how long it may take to see that a container which refuses a connection has ended, and toldTime how long where
	// that is not seen, but told by the engine.
	endTime  = 100 * time.Millisecond
	toldTime = 500 * time.Millisecond
	// answerSoon is how long a failure waits for the engine's word besides.
	answerSoon = 2 * time.Second
	// Events ask for looks, as many at once as a restart has, and in the long run one in a lookPause.
	lookPause = 100 * time.Millisecond
	lookBurst = 10
)

func newRoute(o *Opener, e *sharedEngine, f target.Forward, events func(route.Event)) *Route {
	r := &Route{opener: o, engine: e, target: f.Target, context: f.EngineContext, only: f.Container, via: f.Via, ports: f.Ports, events: events, looks: make(chan struct{}, 1), pace: rate.NewLimiter(rate.Every(lookPause), lookBurst), changed: make(chan struct{})}
	r.life, r.end = context.WithCancelCause(o.life)
	return r
}

// begin finds the containers for the first time, and begins to follow them.
func (r *Route) begin(ctx context.Context) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	r.begun = true
	r.events(route.Event{Kind: route.Ready})
	r.engine.follow(r)
	r.work.Go(r.keep)
	return nil
}

// poke asks for a look.
func (r *Route) poke() {
	select {
	case r.looks <- struct{}{}:
	default:
	}
}

// keep looks for the containers whenever they may have changed, until the route ends.
func (r *Route) keep() {
	for r.life.Err() == nil {
		rest := lookRunning
		if r.count() == 0 {
			rest = lookWaiting
		}
		backoff.Sleep(r.life, rest, r.looks)
		ended := r.reap()
		if r.life.Err() != nil {
			return // which ends members that run, too
		}
		r.tell(ended)
		err := r.lookInTurn()
		if r.life.Err() != nil {
			return
		}
		if r.byID && errors.Is(err, ErrNoContainer) {
			r.end(r.stateError(found{Name: r.target.Name}, ErrRemoved))
			return
		}
		r.tell(err)
	}
}

// lookInTurn is look for keep, no more often than the pace allows. Those who wait in lookAgain learn of its end.
func (r *Route) lookInTurn() error {
	_ = r.pace.Wait(r.life)
	r.mu.Lock()
	r.looking++
	r.mu.Unlock()
	err := r.look(r.life)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looked, r.failed = r.looking, err
	r.wake()
	return err
}

// lookAgain waits until keep has looked for the containers once more, and returns what that has, or the error of ctx. All who ask
// meanwhile share a look.
func (r *Route) lookAgain(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.looking + 1
	r.poke()
	for r.looked < next && r.life.Err() == nil && ctx.Err() == nil {
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-r.life.Done():
		case <-ctx.Done():
		}
		r.mu.Lock()
	}
	return cmp.Or(ctx.Err(), r.failed)
}

// wake has those go on who wait for a change. The route's lock is held.
func (r *Route) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// tell tells that the containers are lost, why there is none, or that there are some again.
func (r *Route) tell(err error) {
	running := r.count() > 0
	switch {
	case running && r.lost:
		r.lost, r.told = false, ""
		r.events(route.Event{Kind: route.Ready, Again: true})
	case !running && !r.lost && err != nil:
		r.lost, r.told = true, err.Error()
		r.events(route.Event{Kind: route.Reconnecting, Err: err})
	case !running && err != nil && r.told != err.Error():
		r.told = err.Error()
		r.events(route.Event{Kind: route.Waiting, Err: err})
	}
}

func (r *Route) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.members)
}

// reap lets go of containers that have ended. If no other is left, the error says so.
func (r *Route) reap() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var last *member
	r.members = slices.DeleteFunc(r.members, func(m *member) bool {
		if !m.ended() {
			return false
		}
		last = m
		m.closeUnused()
		return true
	})
	if last == nil || len(r.members) > 0 {
		return nil
	}
	r.why = last.gone
	return r.why
}

// look asks the engine for the containers, opens new ones and lets go of those that run no more. The error says why there are none;
// one of the engine leaves things as they are.
func (r *Route) look(ctx context.Context) error {
	finding, cancel := context.WithTimeoutCause(ctx, findTime, ErrNoAnswer)
	all, err := r.engine.find(finding, r.target)
	cancel()
	if err != nil && !errors.Is(err, ErrNoContainer) && r.count() > 0 {
		return err
	}
	if len(all) == 1 && r.target.Name != all[0].Name && strings.HasPrefix(all[0].ID, r.target.Name) {
		r.target.Name, r.byID = all[0].ID, true
	}
	r.drop(all)
	for _, c := range all {
		if c.State != Running {
			err = cmp.Or(err, r.stateError(c, ErrNotRunning))
		} else if !r.has(c) {
			err = cmp.Or(err, r.open(ctx, c))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.members) > 0 {
		return nil
	}
	r.why = err
	return err
}

// stateError is why a container cannot be reached.
func (r *Route) stateError(c found, why error) error {
	return &StateError{Target: r.target, Context: r.context, Name: c.Name, State: c.State, Err: why}
}

func (r *Route) has(c found) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.members, func(m *member) bool { return m.same(c) && !m.ended() })
}

// drop lets go of members that are not among those that run. Their connections stay.
func (r *Route) drop(all []found) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = slices.DeleteFunc(r.members, func(m *member) bool {
		if slices.ContainsFunc(all, func(c found) bool { return c.State == Running && m.same(c) }) {
			return false
		}
		m.finish()
		m.closeUnused()
		return true
	})
}

// open opens a container, and lets connections go to it.
func (r *Route) open(ctx context.Context, c found) error {
	c.container = r.only
	opened, err := r.openContainer(ctx, c)
	if err != nil {
		return r.stateError(c, err)
	}
	if c.HostNetwork && !r.onHost {
		r.onHost = true
		r.events(route.Event{Kind: route.Carried, Via: target.ViaNative, Err: ErrHostNetwork})
	}
	m := &member{found: c, Result: opened, gone: r.stateError(c, ErrEnded), users: 1} // which awaitEnd is
	m.life, m.end = context.WithCancelCause(r.life)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun {
		m.opened = time.Now()
	}
	r.members = append(r.members, m)
	r.wake()
	r.work.Go(func() { r.awaitEnd(m) })
	return nil
}

// Dial implements route.Dialer. A helper container answers later whether something listens, and then the connection is opened again
// if that passes. One of UDP ends with its container.
func (r *Route) Dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	conn, m, err := r.dial(ctx, to)
	if err == nil && to.Network == target.UDP {
		return endWith(m, conn), nil
	}
	byHelper, ok := conn.(*tunnel.Conn)
	if err != nil || !ok {
		return conn, err
	}
	return tunnel.NewReplayed(r.life, byHelper, tunnel.Reopening{
		NothingDone: func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) },
		Again:       func(ctx context.Context, err error) bool { return r.passes(ctx, m, err) },
		Dial: func(ctx context.Context) (pipe.Conn, error) {
			conn, m, err = r.dial(ctx, to)
			return conn, err
		},
	}), nil
}

// dial connects to an address in one of the containers, which it returns.
func (r *Route) dial(ctx context.Context, to target.Address) (conn pipe.Conn, of *member, err error) {
	err = r.use(ctx, func(m *member) error {
		conn, err = m.Dial(ctx, to)
		of = m
		return err
	})
	return conn, of, err
}

// Bind is a route.Binder to one of the containers. What it listens on is closed when that ends.
func (r *Route) Bind(ctx context.Context, at target.Endpoint) (l *route.Listener, err error) {
	err = r.use(ctx, func(m *member) error {
		if m.Bind == nil {
			return target.ErrUnsupported
		}
		if l, err = m.Bind(ctx, at); err == nil {
			context.AfterFunc(m.life, func() { _ = l.Close() })
		}
		return err
	})
	return l, err
}

// Listening tells what listens in one of the containers, and in the next one when that has ended. Meanwhile
// connections wait, and nothing is told.
func (r *Route) Listening(ctx context.Context, tell func([]target.Socket)) error {
	for {
		m, err := r.member(ctx)
		if err != nil {
			return err
		}
		if m.Listening == nil {
			r.leave(m)
			return target.ErrUnsupported
		}
		watching, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(m.life, cancel)
		err = m.Listening(watching, func(now []target.Socket) { tell(withoutDockerDNS(r.target.Scheme, now)) })
		stop()
		cancel()
		r.leave(m)
		if ctx.Err() != nil || !r.passes(ctx, m, err) {
			return err
		}
	}
}

// Wait implements route.Route. Only a container that was named by its ID can be gone for good.
func (r *Route) Wait(ctx context.Context) error {
	select {
	case <-r.life.Done():
		return context.Cause(r.life)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close implements route.Route.
func (r *Route) Close() error {
	r.end(nil)
	r.engine.leave(r)
	r.work.Wait()
	r.drop(nil)
	for _, h := range r.helped {
		_ = h.Close()
	}
	return nil
}
