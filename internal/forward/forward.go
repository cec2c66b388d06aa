// Package forward carries connections from local listeners to wherever a Dialer leads, and tells of them as events.
// It must not know what is at the other end, nor who reads the events.
package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Session forwards what its listeners accept. Set the fields, then call Run once.
type Session struct {
	// Name is what the events call the target.
	Name string
	// Dialer leads to the target.
	Dialer route.Dialer
	// Events is called for everything worth telling, from many goroutines
	// at once. A connection waits for the call about it to return. nil is
	// for nobody.
	Events func(Event)
	// DialTimeout is how long one connection to the target may take to come
	// up; 0 means 30 s.
	DialTimeout time.Duration
	// Drain is how long connections may go on after Run's context has ended,
	// before they are reset; 0 resets them at once. Those that nothing moves on,
	// such as a browser's that waits for the next request, are reset at once too.
	Drain time.Duration
	// Now ends Drain early when it is closed; nil is never.
	Now <-chan struct{}

	copier pipe.Copier
	mu     sync.Mutex
	live   map[*connection]bool
}

// defaultDialTimeout is a generous guess at what a person waits for.
const defaultDialTimeout = 30 * time.Second

// Run serves the listeners until ctx ends, closes them, gives live connections
// s.Drain to finish if something moves on them, and returns when all of them are gone. It returns nil when
// ctx ended it, and otherwise the error of the listener that failed.
func (s *Session) Run(ctx context.Context, listeners []*Listener) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { CloseAll(listeners) })()

	// Connections outlive ctx by the time to drain.
	conns, reset := context.WithCancel(context.WithoutCancel(ctx))
	defer reset()
	var failure error
	var accepting, serving sync.WaitGroup
	var once sync.Once
	for _, l := range listeners {
		accepting.Go(func() {
			if err := s.accept(ctx, conns, l, &serving); err != nil {
				once.Do(func() { failure = err })
				stop(err)
			}
		})
	}
	accepting.Wait()
	s.drain(&serving, reset)
	s.copier.Close()
	return failure
}

const (
	// drainTick is between two looks for connections on which nothing moves any more.
	drainTick = 50 * time.Millisecond
	// drainTell is after how long it is told that connections are waited for; those that
	// are just about to end have done so by then.
	drainTell = 200 * time.Millisecond
)

// drain waits for the connections that are in use, with a limit.
func (s *Session) drain(serving *sync.WaitGroup, reset func()) {
	over := make(chan struct{})
	go func() { serving.Wait(); close(over) }()
	limit, tell, tick := time.NewTimer(s.Drain), time.NewTimer(drainTell), time.NewTicker(drainTick)
	defer limit.Stop()
	defer tell.Stop()
	defer tick.Stop()
	s.resetIdle()
	for now := s.Now; ; {
		select {
		case <-over:
			return
		case <-tick.C:
			s.resetIdle()
		case <-tell.C:
			if n := s.resetIdle(); n > 0 && s.Drain > drainTell {
				s.emit(Event{Kind: Draining, Live: n})
			}
		case <-limit.C:
			reset()
		case <-now:
			reset()
			now = nil
		}
	}
}

// resetIdle resets the connections on which nothing moves, and counts the others.
func (s *Session) resetIdle() (busy int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.live {
		if c.busy() {
			busy++
		} else {
			c.reset()
		}
	}
	return busy
}

// accept serves one listener until ctx ends.
func (s *Session) accept(ctx, conns context.Context, l *Listener, serving *sync.WaitGroup) error {
	var pause backoff
	for {
		conn, err := l.AcceptTCP()
		switch {
		case err == nil:
			pause.reset()
			serving.Go(func() { s.serve(conns, l, conn) })
		case ctx.Err() != nil:
			return nil
		case passing(err):
			if pause.first() {
				s.emit(Event{Kind: Failed, Listen: l.Local, Remote: l.Remote, Err: err})
			}
			pause.wait(ctx)
		default:
			return err
		}
	}
}

// passing reports whether accept(2) may succeed later: the connection was gone
// before it was accepted, or the system is out of descriptors or memory.
func passing(err error) bool {
	for _, errno := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// connection is one that was accepted, while it lives.
type connection struct {
	activity
	began time.Time
	up    atomic.Bool // it has reached the target
	reset func()
}

// busy reports whether the connection may have something to finish.
func (c *connection) busy() bool {
	if !c.up.Load() {
		return time.Since(c.began) < moveTime // else the target is waited for, and may be for long
	}
	return c.moves()
}

func (s *Session) enter(c *connection) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		s.live = map[*connection]bool{}
	}
	s.live[c] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.live, c)
	}
}

// serve carries one connection to its end. conns ends when it is to be reset.
func (s *Session) serve(conns context.Context, l *Listener, local *net.TCPConn) {
	conns, reset := context.WithCancel(conns)
	defer reset()
	c := &connection{activity: activityOf(local), began: time.Now(), reset: reset}
	defer s.enter(c)()
	event := Event{Kind: Opened, Listen: l.Local, Remote: l.Remote, Client: clientOf(local)}
	s.emit(event)

	remote, err := s.dial(conns, l.Remote)
	if err != nil {
		_ = pipe.Reset(local)
		event.Kind, event.Err = Failed, err
		s.emit(event)
		return
	}
	c.up.Store(true)
	defer context.AfterFunc(conns, func() {
		_ = pipe.Reset(local)
		_ = pipe.Reset(remote)
	})()
	counts, err := s.copier.Copy(c.conn(), remote)
	event.Kind, event.Err = Closed, err
	event.Sent, event.Received = counts.FromA, counts.FromB
	event.Duration = time.Since(c.began)
	s.emit(event)
}

func (s *Session) dial(ctx context.Context, to target.Address) (pipe.Conn, error) {
	timeout := s.DialTimeout
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.Dialer.Dial(ctx, to)
}

func (s *Session) emit(e Event) {
	if s.Events != nil {
		e.Target = s.Name
		s.Events(e)
	}
}

func clientOf(c *net.TCPConn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// backoff spaces out attempts that fail for want of resources.
type backoff struct{ last time.Duration }

func (b *backoff) reset()      { b.last = 0 }
func (b *backoff) first() bool { return b.last == 0 }

func (b *backoff) wait(ctx context.Context) {
	b.last = min(max(2*b.last, 5*time.Millisecond), time.Second)
	select {
	case <-time.After(b.last):
	case <-ctx.Done():
	}
}
