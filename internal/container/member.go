package container

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/moby/moby/client"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
)

// member is a container that is open.
type member struct {
	found
	*route.Result
	opened time.Time       // when it was found, but for those that were there at the beginning
	life   context.Context // ends when it is over, of which gone is the cause
	end    context.CancelCauseFunc
	gone   error
	users  int // calls that use it: the last one closes it, once it has ended
	closed bool
}

// finish says that the member is over.
func (m *member) finish() { m.end(m.gone) }

func (m *member) ended() bool { return m.life.Err() != nil }

// awaitEnd waits until a member's process has ended, or the member is over for another reason.
func (r *Route) awaitEnd(m *member) {
	_ = m.Wait(m.life)
	m.finish()
	r.leave(m)
	r.poke()
}

// closeUnused closes a member that has ended, unless somebody uses it. The route's lock is held.
func (m *member) closeUnused() {
	if !m.ended() || m.users > 0 || m.closed {
		return
	}
	m.closed = true
	if h, ok := m.Route.(*helperRoute); ok {
		h.leave() // its connections stay, as those of a namespace do
	} else {
		_ = m.Close()
	}
}

// leave ends the use of a member.
func (r *Route) leave(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.users--
	m.closeUnused()
}

// member returns what the next connection goes to, and is left afterwards. While there is none it waits.
func (r *Route) member(ctx context.Context) (*member, error) {
	for {
		r.mu.Lock()
		for range r.members {
			m := r.members[r.next%len(r.members)]
			r.next++
			if !m.ended() {
				m.users++
				r.mu.Unlock()
				return m, nil
			}
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-r.life.Done():
			return nil, context.Cause(r.life)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// errWaited ends a wait for a container.
var errWaited = errors.New("waited in vain")

// use calls f with a container, and again with the next one if it ends meanwhile. While there is none it waits, at
// most for MaxWait. Errors: *WaitError, what the end of the route was, and those of f.
func (r *Route) use(ctx context.Context, f func(*member) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, r.opener.MaxWait, errWaited)
	defer cancel()
	for {
		m, err := r.member(limited)
		if err == nil {
			err = f(m)
			r.leave(m)
			if err == nil || !r.passes(limited, m, err) {
				return err
			}
			if limited.Err() == nil {
				continue
			}
		}
		if errors.Is(context.Cause(limited), errWaited) {
			return r.waited(err)
		}
		return err
	}
}

// waited is why a wait was in vain, whose last error is err.
func (r *Route) waited(err error) error {
	if errors.Is(err, errWaited) {
		r.mu.Lock()
		defer r.mu.Unlock()
		err = r.why
	}
	return &WaitError{Waited: r.opener.MaxWait, Err: err}
}

// passes waits until it is clear whether a failure is that of a container which ends or begins, and not of the connection.
func (r *Route) passes(ctx context.Context, m *member, err error) bool {
	var helper *HelperError // one cannot be started beside a container that has ended
	noHelper := errors.As(err, &helper)
	_, byHelper := m.Route.(*helperRoute)
	rest := endTime
	switch refused := !noHelper && errors.Is(err, syscall.ECONNREFUSED); {
	case errors.Is(err, netns.ErrExited):
		rest = settleTime
	case refused && time.Since(m.opened) < settleTime:
		backoff.Sleep(ctx, settlePause, m.life.Done())
		return ctx.Err() == nil
	case byHelper && (refused || noHelper):
		return r.passesByHelper(ctx, m, helper)
	case !refused:
		rest = 0
	}
	backoff.Sleep(ctx, rest, m.life.Done())
	return m.ended() && ctx.Err() == nil
}

// passesByHelper is passes for a container that a helper refuses a connection to, or that has no helper for a reason. Its engine
// alone knows whether it runs. While no engine answers no helper can be started.
func (r *Route) passesByHelper(ctx context.Context, m *member, none *HelperError) bool {
	backoff.Sleep(ctx, toldTime, m.life.Done())
	if m.ended() {
		return ctx.Err() == nil
	}
	asking, cancel := context.WithTimeout(ctx, answerSoon)
	failed := r.lookAgain(asking)
	cancel()
	if none != nil && (failed != nil || client.IsErrConnectionFailed(none)) {
		return true
	}
	return m.ended() && ctx.Err() == nil
}
