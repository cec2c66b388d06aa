package portforward

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"porthole.dev/porthole/internal/backoff"
)

const (
	// openTimeout is how long a tunnel may take to open.
	openTimeout = 30 * time.Second
	// growPause is how long a need for tunnels must last before one is opened
	// for it. A short connection is over by then, and a burst has the server's
	// processors for itself: a tunnel costs it as much as many connections.
	growPause = 25 * time.Millisecond
	// maxSpare is how many tunnels lie ready while connections share.
	maxSpare = 8
	// youngTime is how long a tunnel has to live for its opening to count as a success.
	youngTime = time.Second
	// silenceLimit is after how long without a sign of life a tunnel with
	// connections is given up, pings notwithstanding. Shorter would take one
	// whose server waits for a stalled port for a dead one; Linux' TCP is as
	// patient with its own (tcp_retries2, tcp(7)).
	silenceLimit = 15 * time.Minute
	// lookTime is between two looks at the tunnels: how late a silence, or the end of
	// a sleep, may be noticed.
	lookTime = time.Second
	// sleepLimit is how long a sleep is that makes the tunnels doubtful, and lateLimit
	// how late a look is if this process itself was stopped: a busy machine's are
	// earlier.
	sleepLimit = time.Second
	lateLimit  = 5 * time.Second
	// wakeTime is how long a server of ours has to answer after a sleep.
	wakeTime = 10 * time.Second
)

// pool keeps a Client's tunnels: which connections are in which, which take more, when to open
// and when to close one. At most one is being opened at a time.
type pool struct {
	open     func(context.Context) (*clientTunnel, error)
	max      int
	idleTime time.Duration // a tunnel without connections is kept this long
	silence  time.Duration // after which a tunnel takes no more connections
	sweeps   time.Duration // between two sweeps
	limit    time.Duration // after which one to a server of ours is given up; negative is never
	asleep   func() time.Duration
	log      *slog.Logger
	again    func(ctx context.Context, failures int, err error) // Client.Again, or nil

	life context.Context // ends with close
	end  context.CancelFunc
	work sync.WaitGroup // goroutines of the pool and of its connections

	mu       sync.Mutex
	closed   bool
	tunnels  []*clientTunnel
	opening  *opening      // under way, or nil
	growing  bool          // grow is running
	sweeper  *time.Timer   // runs sweep; nil without tunnels
	slept    time.Duration // what asleep said last
	looked   time.Time     // when sweep ran last
	woke     time.Time     // when the last sleep was noticed
	failed   error         // why there is no tunnel: the last opening's failure, or a new tunnel's
	failures int           // in a row
}

// opening is a tunnel on its way. After another one that failed, it begins when
// Client.Again says so. err is set before done is closed.
type opening struct {
	after error     // the failure before it, or nil
	began time.Time // zero before it is; pool.mu guards it
	done  chan struct{}
	err   error
}

// acquire returns a tunnel with room for one more connection, and counts that in. It waits only
// if there is none worth sharing. An opening that was under way before may have met a server
// that was shutting down; only the failure of a later one counts.
func (p *pool) acquire(ctx context.Context) (*clientTunnel, error) {
	for asked := time.Now(); ; {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		t, o, err := p.take()
		if t != nil || err != nil {
			return t, err
		}
		select {
		case <-o.done:
			if o.err != nil && !o.began.Before(asked) {
				return nil, o.err
			}
		case <-ctx.Done():
			if err := p.waitsAfter(o); err != nil {
				return nil, err
			}
		}
	}
}

// waitsAfter is the failure after which an opening has not begun yet, or nil.
func (p *pool) waitsAfter(o *opening) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o.began.IsZero() {
		return o.after
	}
	return nil
}

// take returns a tunnel, or the opening to wait for.
func (p *pool) take() (*clientTunnel, *opening, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, net.ErrClosed
	}
	p.notice()
	p.clean()
	t := p.pick()
	if t == nil {
		return nil, p.begin(), nil
	}
	t.conns++
	if !p.growing && p.needsSpare() {
		p.growing = true
		p.work.Go(p.grow)
	}
	return t, nil, nil
}

// pick chooses a tunnel for a new connection: one of porthole.v1, of which one is
// enough; else an idle one, the last used first so that the others age; else the one
// with the fewest connections that is not stuck; with all stuck and no more allowed,
// the one with the fewest.
func (p *pool) pick() *clientTunnel {
	var best, least *clientTunnel
	for _, t := range p.tunnels {
		if t.acceptsNew() && (best == nil || preferred(t, best)) {
			best = t
		}
		if !t.gone && (least == nil || t.conns < least.conns) {
			least = t
		}
	}
	if best == nil && !p.mayOpen() {
		return least
	}
	return best
}

// mayOpen reports whether there is room for one more tunnel; p.mu is held.
func (p *pool) mayOpen() bool {
	n := 0
	for _, t := range p.tunnels {
		if !t.gone {
			n++
		}
	}
	return n < p.max
}

// preferred reports whether a is a better place than b.
func preferred(a, b *clientTunnel) bool {
	if (a.v1 != nil) != (b.v1 != nil) {
		return a.v1 != nil
	}
	if a.conns == 0 && b.conns == 0 {
		return a.idle.After(b.idle)
	}
	return a.conns < b.conns
}

// release takes back a tunnel from a connection. Unless reusable, it takes no more connections.
func (p *pool) release(t *clientTunnel, reusable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.conns--
	t.retired = t.retired || !reusable
	if t.conns == 0 {
		t.idle = time.Now()
	}
	p.clean()
}

// retire lets a tunnel take no more connections.
func (p *pool) retire(t *clientTunnel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.retired = true
}

// retireOlder lets the tunnels that are older than the given time take no more connections: a
// connection that was opened then has found that what they lead to is gone. A pod may continue in
// another sandbox, to which new tunnels lead.
func (p *pool) retireOlder(opened time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tunnels {
		if !t.started.After(opened) {
			t.retired, t.gone = true, true
		}
	}
	p.clean()
}

// clean closes tunnels that are broken, that were only kept for their last connection, or that
// are idle and silent; p.mu is held.
func (p *pool) clean() {
	p.drop(func(t *clientTunnel) bool {
		return t.conn.Err() != nil || t.conns == 0 && (t.retired || time.Since(t.conn.LastRead()) >= p.silence)
	})
}

// drop closes the tunnels of which bad is true; p.mu is held. A closed pool has none.
func (p *pool) drop(bad func(*clientTunnel) bool) {
	p.tunnels = slices.DeleteFunc(p.tunnels, func(t *clientTunnel) bool {
		if !bad(t) {
			return false
		}
		p.log.Debug("tunnel closed", "age", time.Since(t.started), "conns", t.conns, "err", t.conn.Err())
		if err := t.conn.Err(); err != nil && time.Since(t.started) < youngTime {
			p.failures++
			if p.failed == nil { // else an opening has failed since, and its server may say when to try again
				p.failed = err
			}
		}
		p.work.Go(func() { t.conn.Close() })
		return true
	})
}

// begin starts to open a tunnel, unless one is being opened; p.mu is held. It continues when those
// who wait for it give up: the tunnel is for the next connection then.
func (p *pool) begin() *opening {
	if p.opening == nil {
		if p.failed == nil {
			p.failures = 0
		}
		o := &opening{after: p.failed, done: make(chan struct{})}
		p.opening = o
		failures := p.failures
		p.work.Go(func() { p.finish(o, failures) })
	}
	return p.opening
}

// finish opens the tunnel that was begun.
func (p *pool) finish(o *opening, failures int) {
	if o.after != nil && p.again != nil {
		p.again(p.life, failures, o.after)
	}
	p.mu.Lock()
	o.began = time.Now()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.life, openTimeout)
	defer cancel()
	t, err := p.open(ctx)
	p.mu.Lock()
	if err == nil && p.closed {
		err = net.ErrClosed
		p.work.Go(func() { t.conn.Close() })
	}
	if err == nil {
		p.tunnels = append(p.tunnels, t)
		if p.sweeper == nil {
			p.looked = time.Now()
			p.sweeper = time.AfterFunc(p.sweeps, p.sweep)
		}
	}
	if p.failed = err; err != nil {
		p.failures++
		if p.closed {
			err = net.ErrClosed
		}
	}
	p.opening = nil
	p.mu.Unlock()
	o.err = err
	close(o.done)
}

// needsSpare reports whether more idle tunnels should lie ready: one while there are
// connections, and one for each that has to share, up to a limit; p.mu is held. In
// porthole.v1 sharing costs nothing.
func (p *pool) needsSpare() bool {
	if slices.ContainsFunc(p.tunnels, func(t *clientTunnel) bool { return t.v1 != nil && t.acceptsNew() }) {
		return false
	}
	used, idle, sharing := p.stats()
	return used > 0 && idle < min(max(1, sharing), maxSpare) && p.mayOpen()
}

// stats counts the tunnels with connections, those that lie ready for one, and the
// connections that have no tunnel of their own; p.mu is held.
func (p *pool) stats() (used, idle, sharing int) {
	for _, t := range p.tunnels {
		switch {
		case t.conns > 0:
			used++
			sharing += t.conns - 1
		case t.acceptsNew():
			idle++
		}
	}
	return used, idle, sharing
}

// grow opens tunnels, one after the other, for as long as more are needed. After a failure it
// stops; the next connection begins again, and Client.Again says when.
func (p *pool) grow() {
	for {
		backoff.Sleep(p.life, growPause, nil)
		p.mu.Lock()
		p.clean()
		if p.closed || !p.needsSpare() {
			p.growing = false
			p.mu.Unlock()
			return
		}
		o := p.begin()
		p.mu.Unlock()
		<-o.done
		if o.err != nil {
			p.log.Debug("no spare tunnel", "err", o.err)
			p.mu.Lock()
			p.growing = false
			p.mu.Unlock()
			return
		}
	}
}

// notice checks whether the machine has slept, or this process was stopped, since the last
// check. If so, the tunnels have to prove that they still work; p.mu is held.
func (p *pool) notice() {
	slept := p.asleep()
	woke := slept-p.slept >= sleepLimit || p.sweeper != nil && time.Since(p.looked) >= p.sweeps+lateLimit
	p.slept = slept
	if !woke {
		return
	}
	p.log.Debug("awake again", "tunnels", len(p.tunnels))
	p.woke, p.looked = time.Now(), time.Now()
	for _, t := range p.tunnels {
		t.conn.Ping()
	}
}

// sweep closes what nobody has used for idleTime, except for one that stays ready,
// and what has been silent for too long.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.notice()
	p.looked = time.Now()
	p.clean()
	_, idle, _ := p.stats()
	p.drop(func(t *clientTunnel) bool {
		surplus := idle > 1 && t.conns == 0 && time.Since(t.idle) >= p.idleTime
		if surplus {
			idle--
		}
		lost := t.lost()
		if lost {
			t.conn.GiveUp(ErrSilent)
		}
		return surplus || lost
	})
	if len(p.tunnels) == 0 {
		p.sweeper = nil
		return
	}
	p.sweeper.Reset(p.sweeps)
}

// watch lets a new connection listen for its end; false after close.
func (p *pool) watch(c *stockConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.work.Go(c.listen)
	}
	return !p.closed
}

// close closes all tunnels and waits for all goroutines.
func (p *pool) close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		p.end()
		if p.sweeper != nil {
			p.sweeper.Stop()
		}
		for _, t := range p.tunnels {
			p.work.Go(func() { t.conn.Close() })
		}
		p.tunnels = nil
	}
	p.mu.Unlock()
	p.work.Wait()
}
