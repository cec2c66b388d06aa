package portforward

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"time"

	"porthole.dev/porthole/internal/route"
)

// Offer is what one upgrade may reach.
type Offer struct {
	// Dialer leads to the ports. What its errors wrap (ErrDenied, ErrNoSandbox,
	// syscall.ECONNREFUSED, ...) becomes the Reason that the client learns; their
	// text is the text.
	Dialer route.Dialer
	// Pod is what error texts call the pod: the runtime's id of its sandbox.
	Pod string
	// Ports are those that the older WebSocket forms open at once, if the
	// request does not name them itself.
	Ports []uint16
	// Events, if set, is called when a connection is opened, when it has ended
	// and when it could not be opened, from many goroutines at once.
	Events func(Event)
	// Sandbox, if set, ends when there is no pod any more that the Dialer could lead
	// to. The tunnel then ends with the last of its connections, and at once if it has
	// none.
	Sandbox context.Context
	// Done, if set, is called once, when the Dialer is not going to be used any
	// more: the Offer was not taken up in time, its upgrade failed, or its
	// tunnel and all connections are gone.
	Done func()
}

// Stage says what an Event tells of a connection. Each connection has either
// Opened and, later, Closed, or Failed alone.
type Stage int

// The stages.
const (
	// Opened: its port is connected.
	Opened Stage = iota + 1
	// Closed: it has ended, after it was opened.
	Closed
	// Failed: its port was never connected, for whatever reason: nobody listens,
	// or the client has hung up meanwhile.
	Failed
)

// Event is a stage in the life of a connection.
type Event struct {
	Stage Stage
	Port  uint16
	// Client is who asked for the upgrade, as far as the request tells:
	// its X-Forwarded-For, else the address that it came from.
	Client string
	// UserAgent is the request's.
	UserAgent string
	// Protocol is what the tunnel speaks: "porthole.v1", "portforward.k8s.io",
	// "v4.channel.k8s.io" or "v4.base64.channel.k8s.io".
	Protocol string
	// Connect is how long the Dialer took.
	Connect time.Duration
	// Sent and Received are octets from and to the client; Duration is from
	// the stream's arrival to the end. They are 0 for Opened.
	Sent, Received int64
	Duration       time.Duration
	// Err is why the connection failed, nil after two ends of file.
	Err error
}

// done calls Done.
func (o Offer) done() {
	if o.Done != nil {
		o.Done()
	}
}

// offers are the Offers that wait for their upgrade. All wait equally long, so that
// one timer, for the oldest, does for all.
type offers struct {
	time time.Duration
	max  int

	mu      sync.Mutex
	closed  bool
	waiting map[string]waitingOffer
	timer   *time.Timer // runs expire; nil while none wait
}

type waitingOffer struct {
	Offer
	until time.Time
}

// add returns the token of a new Offer: 130 random bits, in base32.
func (o *offers) add(offer Offer) (token string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return "", net.ErrClosed
	case len(o.waiting) >= o.max:
		return "", ErrTooManyOffers
	case o.waiting == nil:
		o.waiting = make(map[string]waitingOffer)
	}
	token = rand.Text()
	o.waiting[token] = waitingOffer{offer, time.Now().Add(o.time)}
	if o.timer == nil {
		o.timer = time.AfterFunc(o.time, o.expire)
	}
	return token, nil
}

// take hands an Offer out, which is gone with that.
func (o *offers) take(token string) (Offer, bool) {
	o.mu.Lock()
	w, ok := o.waiting[token]
	delete(o.waiting, token)
	o.mu.Unlock()
	if ok && !time.Now().Before(w.until) {
		w.done()
		ok = false
	}
	return w.Offer, ok
}

// expire forgets those whose time is over, and comes back for the next.
func (o *offers) expire() {
	for _, w := range o.overdue() {
		w.done()
	}
}

func (o *offers) overdue() (gone []waitingOffer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, next := time.Now(), time.Time{}
	for token, w := range o.waiting {
		switch {
		case !now.Before(w.until):
			gone = append(gone, w)
			delete(o.waiting, token)
		case next.IsZero() || w.until.Before(next):
			next = w.until
		}
	}
	o.timer = nil
	if !next.IsZero() {
		o.timer = time.AfterFunc(next.Sub(now), o.expire)
	}
	return gone
}

// close forgets all of them, and takes no more.
func (o *offers) close() {
	o.mu.Lock()
	all := o.waiting
	o.waiting, o.closed = nil, true
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	o.mu.Unlock()
	for _, w := range all {
		w.done()
	}
}
