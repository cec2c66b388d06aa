// Package forward carries connections from local listeners to wherever a Dialer leads, and tells of them as events.
// It must not know what is at the other end, nor who reads the events.
package forward

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Forwarder forwards what its listeners accept. Set the fields, then call Run once.
type Forwarder struct {
	// Name is what the events call the target.
	Name string
	// Dialer leads to the target.
	Dialer route.Dialer
	// DialFor, if set, is called in the place of Dialer, and told whose connection it is for.
	DialFor func(ctx context.Context, l *route.Listener, client target.Endpoint) (pipe.Conn, error)
	// Events is called for everything that happens, from many goroutines at
	// once. A connection waits until the call about it returns. It may be nil.
	Events func(route.Event)
	// DialTimeout is how long one connection to the target may take to come
	// up; 0 means 30 s.
	DialTimeout time.Duration
	// UDPIdle is after how long without a datagram a client of a UDP port is
	// forgotten; 0 means a minute.
	UDPIdle time.Duration
	// Drain is how long connections may last after Run's context has ended,
	// before they are reset; 0 resets them at once. Those that nothing moves on,
	// such as a browser's that waits for the next request, are reset at once too.
	// Negative has all of them last for as long as they like.
	Drain time.Duration
	// Now ends Drain early when it is closed; nil is never.
	Now <-chan struct{}
	// Later, if set, has listeners that come while Run serves. Whoever sends one may close it: its connections
	// live on, and Run serves the others.
	Later <-chan *route.Listener

	copier pipe.Copier
	live   sync.Map // *connection, of those that drain waits for
}

// defaultDialTimeout is a generous guess at what a person waits for.
const defaultDialTimeout = 30 * time.Second

// Run serves the listeners until ctx ends, closes them, gives connections that are in use
// f.Drain to finish, and returns when all of them are gone. It returns nil if ctx has
// ended it, and otherwise the error of the listener that failed.
func (f *Forwarder) Run(ctx context.Context, listeners []*route.Listener) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	// Connections outlive ctx by the time to drain.
	conns, reset := context.WithCancel(context.WithoutCancel(ctx))
	defer reset()
	var failure error
	var accepting, serving sync.WaitGroup
	var once sync.Once
	serve := func(l *route.Listener) {
		defer l.Close() // the next line may come too late, when it is busy
		defer context.AfterFunc(ctx, func() { _ = l.Close() })()
		accept := f.accept
		if l.Packets != nil {
			accept = f.receive
		}
		if err := accept(ctx, conns, l, &serving); err != nil && (f.Later == nil || !errors.Is(err, net.ErrClosed)) {
			once.Do(func() { failure = err })
			stop(err)
		}
	}
	for _, l := range listeners {
		accepting.Go(func() { serve(l) })
	}
	if f.Later != nil {
		accepting.Go(func() { f.serveLater(ctx, func(l *route.Listener) { accepting.Go(func() { serve(l) }) }) })
	}
	accepting.Wait()
	f.drain(&serving, reset)
	f.copier.Close()
	return failure
}

// serveLater serves the listeners that come later, until ctx ends.
func (f *Forwarder) serveLater(ctx context.Context, serve func(*route.Listener)) {
	for {
		select {
		case l := <-f.Later:
			serve(l)
		case <-ctx.Done():
			return
		}
	}
}

const (
	// drainTick is the time between two searches for connections that have become idle.
	drainTick = 50 * time.Millisecond
	// drainTell is how long to wait before telling that connections are waited for: most
	// are just about to end.
	drainTell = 200 * time.Millisecond
)

// drain waits for the connections that are in use, up to a limit.
func (f *Forwarder) drain(serving *sync.WaitGroup, reset func()) {
	over := make(chan struct{})
	go func() { serving.Wait(); close(over) }()
	if f.Drain < 0 {
		select {
		case <-over:
		case <-f.Now:
			reset()
			<-over
		}
		return
	}
	limit, tell, tick := time.NewTimer(f.Drain), time.NewTimer(drainTell), time.NewTicker(drainTick)
	defer limit.Stop()
	defer tell.Stop()
	defer tick.Stop()
	f.resetIdle()
	for now := f.Now; ; {
		select {
		case <-over:
			return
		case <-tick.C:
			f.resetIdle()
		case <-tell.C:
			if n := f.resetIdle(); n > 0 && f.Drain > drainTell {
				f.emit(route.Event{Kind: route.Draining, Live: n})
			}
		case <-limit.C:
			reset()
		case <-now:
			reset()
			now = nil
		}
	}
}

// resetIdle resets the connections that are idle, and counts the others.
func (f *Forwarder) resetIdle() (busy int) {
	for c := range f.live.Range {
		if c := c.(*connection); c.busy() {
			busy++
		} else {
			c.reset()
		}
	}
	return busy
}

// accept serves one listener of streams until ctx ends.
func (f *Forwarder) accept(ctx, conns context.Context, l *route.Listener, serving *sync.WaitGroup) error {
	var pause backoff.Backoff
	for {
		conn, err := l.Streams.Accept()
		switch {
		case err == nil:
			pause.Reset()
			serving.Go(func() { f.serve(conns, l, conn.(socket)) })
		case ctx.Err() != nil:
			return nil
		case mayPass(err):
			if !pause.Failing() {
				f.emit(route.Event{Kind: route.Failed, Listen: l.Local, Remote: l.Remote, Err: err})
			}
			backoff.Sleep(ctx, pause.Next(5*time.Millisecond, time.Second), nil)
		default:
			return err
		}
	}
}

// mayPass reports whether accept(2) may succeed later: the connection was gone
// before it was accepted, or the system is out of descriptors or memory.
func mayPass(err error) bool {
	for _, errno := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// socket is an accepted connection: a *net.TCPConn, a *net.UnixConn, or one that comes through a tunnel.
type socket interface {
	pipe.Conn
	net.Conn
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
		return time.Since(c.began) < moveTime // after that it waits for the target, maybe for long
	}
	return c.moves()
}

// serve carries one connection to its end. conns ends when it is to be reset.
func (f *Forwarder) serve(conns context.Context, l *route.Listener, local socket) {
	conns, reset := context.WithCancel(conns)
	defer reset()
	c := &connection{began: time.Now(), reset: reset}
	f.live.Store(c, nil)
	defer f.live.Delete(c)
	event := route.Event{Kind: route.Opened, Listen: l.Local, Remote: l.Remote, Client: target.Endpoint{Network: l.Local.Network}}
	if client, ok := local.RemoteAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		event.Client.AddrPort = client.AddrPort()
	}
	f.emit(event)

	dialing, dialed := context.WithTimeout(conns, cmp.Or(f.DialTimeout, defaultDialTimeout))
	remote, err := f.dial(dialing, l, event.Client)
	dialed()
	if err != nil {
		_ = pipe.Reset(local)
		event.Kind, event.Err = route.Failed, err
		f.emit(event)
		return
	}
	c.activity = activityOf(local, remote)
	c.up.Store(true)
	defer context.AfterFunc(conns, func() {
		_ = pipe.Reset(local)
		_ = pipe.Reset(remote)
	})()
	event.Err = f.copy(&event, c.near, c.far)
	event.Kind, event.Duration = route.Closed, time.Since(c.began)
	f.emit(event)
}

// dial connects a client to the target.
func (f *Forwarder) dial(ctx context.Context, l *route.Listener, client target.Endpoint) (pipe.Conn, error) {
	if f.DialFor != nil {
		return f.DialFor(ctx, l, client)
	}
	return f.Dialer.Dial(ctx, l.Remote)
}

// copy moves bytes, or datagrams, in both directions until both have ended, and counts them.
func (f *Forwarder) copy(event *route.Event, near, far pipe.Conn) (err error) {
	var counts pipe.DatagramCounts
	if event.Listen.Network == target.UDP {
		counts, err = pipe.CopyDatagrams(near, far)
	} else {
		counts.Counts, err = f.copier.Copy(near, far)
	}
	event.Sent, event.Received, event.Dropped = counts.FromA, counts.FromB, counts.Dropped
	return err
}

func (f *Forwarder) emit(e route.Event) {
	if f.Events != nil {
		e.Target = f.Name
		f.Events(e)
	}
}
