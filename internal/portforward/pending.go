package portforward

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/tunnel"
)

// PendingUpgrade is a request that is expected, and what its tunnel may reach.
type PendingUpgrade struct {
	// Dialer leads to the ports.
	Dialer route.Dialer
	// Bind, if set, listens in the pod, for clients of porthole.v1.
	Bind route.Binder
	// Listening, if set, tells what listens in the pod, to clients of porthole.v1.
	Listening route.Watch
	// Pod is what error texts call the pod: the runtime's id of its sandbox.
	Pod string
	// Ports are those that the older WebSocket forms open at once, if the request does
	// not name them itself.
	Ports []uint16
	// Events, if set, is called when a connection is opened, when it has ended and when
	// it could not be opened, from many goroutines at once.
	Events func(Event)
	// Sandbox, if set, ends when the pod that the Dialer leads to no longer exists. The
	// tunnel then ends with its last connection, and at once if it has none.
	Sandbox context.Context
	// Done, if set, is called once, when the Dialer is not going to be used any more: the
	// request did not come in time, its upgrade failed, or its tunnel and all connections
	// are gone.
	Done func()
}

// Event is a stage in the life of a connection, and who asked for it.
type Event struct {
	tunnel.Event
	// Client is who asked for the upgrade, as far as the request tells: its
	// X-Forwarded-For, else the address that it came from.
	Client string
	// UserAgent is the request's.
	UserAgent string
	// Protocol is what the tunnel speaks: "porthole.v1", "portforward.k8s.io",
	// "v4.channel.k8s.io" or "v4.base64.channel.k8s.io".
	Protocol string
}

// done calls Done.
func (u PendingUpgrade) done() {
	if u.Done != nil {
		u.Done()
	}
}

// pendingUpgrades are the upgrades that are waited for, by their tokens. All wait equally
// long, so that one timer, for the oldest, does for all.
type pendingUpgrades struct {
	time time.Duration
	max  int

	mu     sync.Mutex
	closed bool
	all    map[string]pendingUpgrade
	timer  *time.Timer // runs expire; nil while none wait
}

type pendingUpgrade struct {
	PendingUpgrade
	until time.Time
}

// add returns the token of a new one: 130 random bits, in base32.
func (p *pendingUpgrades) add(u PendingUpgrade) (token string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return "", net.ErrClosed
	case len(p.all) >= p.max:
		return "", ErrTooManyPending
	case p.all == nil:
		p.all = make(map[string]pendingUpgrade)
	}
	token = rand.Text()
	p.all[token] = pendingUpgrade{u, time.Now().Add(p.time)}
	if p.timer == nil {
		p.timer = time.AfterFunc(p.time, p.expire)
	}
	return token, nil
}

// take returns the one with that token, which is used up by that.
func (p *pendingUpgrades) take(token string) (PendingUpgrade, bool) {
	p.mu.Lock()
	u, ok := p.all[token]
	delete(p.all, token)
	p.mu.Unlock()
	if ok && !time.Now().Before(u.until) {
		u.done()
		ok = false
	}
	return u.PendingUpgrade, ok
}

// expire forgets those whose time is over, and sets the timer for the next.
func (p *pendingUpgrades) expire() {
	var expired []pendingUpgrade
	p.mu.Lock()
	now, next := time.Now(), time.Time{}
	for token, u := range p.all {
		switch {
		case !now.Before(u.until):
			expired = append(expired, u)
			delete(p.all, token)
		case next.IsZero() || u.until.Before(next):
			next = u.until
		}
	}
	p.timer = nil
	if !next.IsZero() {
		p.timer = time.AfterFunc(next.Sub(now), p.expire)
	}
	p.mu.Unlock()
	for _, u := range expired {
		u.done()
	}
}

// close forgets all of them, and takes no more.
func (p *pendingUpgrades) close() {
	p.mu.Lock()
	all := p.all
	p.all, p.closed = nil, true
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for _, u := range all {
		u.done()
	}
}
