package forward

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/backoff"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

const (
	// maxFlows is how many clients a UDP port has at once. Anybody can invent more.
	maxFlows = 1024
	// maxEarly is how many bytes of one client are kept until the target is reached.
	maxEarly = 128 << 10
	// defaultUDPIdle is Forwarder.UDPIdle where that is 0.
	defaultUDPIdle = time.Minute
	// failedRest is how long a client whose flow has failed is not served.
	failedRest = time.Second
	// maxDatagram is more than any datagram of UDP has: 65,507 bytes, and 65,527 in IPv6.
	maxDatagram = 64 << 10
)

// flows are the clients of one UDP port.
type flows struct {
	f       *Forwarder
	l       *Listener
	socket  *packetSocket
	mu      sync.Mutex
	clients map[peer]*flow
}

// flow is one client of a UDP port: a connection that its first datagram has opened, and that
// ends when none has passed for a while.
type flow struct {
	all    *flows
	client peer
	began  time.Time
	passed atomic.Int64 // when a datagram passed last, since began

	sent, received, dropped atomic.Int64 // bytes, bytes, datagrams

	failed atomic.Bool // it was told that the target refuses, which has not answered since

	mu     sync.Mutex
	early  [][]byte  // that came before remote was there
	held   int       // bytes in early
	remote pipe.Conn // each Write is one datagram
	over   bool
}

// receive serves one UDP listener until ctx ends.
func (f *Forwarder) receive(ctx, _ context.Context, l *Listener, serving *sync.WaitGroup) error {
	all := &flows{f: f, l: l, socket: newPacketSocket(l.packets), clients: map[peer]*flow{}}
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := all.socket.read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // some systems report that a client's host refused an answer
		}
		if c := all.of(ctx, from, serving); c != nil {
			c.deliver(buf[:n])
		}
	}
}

// of returns the flow of a client, a new one for a new client, or nil if there are too many.
func (all *flows) of(ctx context.Context, client peer, serving *sync.WaitGroup) *flow {
	all.mu.Lock()
	defer all.mu.Unlock()
	c := all.clients[client]
	if c == nil && len(all.clients) < maxFlows {
		c = &flow{all: all, client: client, began: time.Now()}
		all.clients[client] = c
		serving.Go(func() {
			c.serve(ctx)
			all.mu.Lock()
			delete(all.clients, client)
			all.mu.Unlock()
		})
	}
	return c
}

// deliver sends a datagram to the target, or keeps it until that is reached.
func (c *flow) deliver(p []byte) {
	c.passed.Store(int64(time.Since(c.began)))
	c.mu.Lock()
	remote := c.remote
	if remote == nil && !c.over && c.held+len(p) <= maxEarly {
		c.early, c.held = append(c.early, append([]byte(nil), p...)), c.held+len(p)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if remote == nil {
		c.dropped.Add(1)
		return
	}
	c.send(remote, p)
}

func (c *flow) send(remote pipe.Conn, p []byte) {
	_, err := remote.Write(p)
	if errors.Is(err, syscall.ECONNREFUSED) { // the answer to an earlier one: this one was not sent
		c.refused(err)
		_, err = remote.Write(p)
	}
	if err != nil {
		c.dropped.Add(1)
		return
	}
	c.sent.Add(int64(len(p)))
}

// serve carries one client until ctx ends, nothing has passed for a while, or the target fails.
func (c *flow) serve(ctx context.Context) {
	c.tell(route.Opened, nil)
	err := c.dial(ctx)
	if err == nil {
		err = c.answer(ctx)
		if !c.failed.Load() {
			c.tell(route.Closed, err)
		}
	} else {
		c.tell(route.Failed, err)
	}
	c.mu.Lock()
	c.over, c.remote, c.early = true, nil, nil
	c.mu.Unlock()
	if err != nil {
		backoff.Sleep(ctx, failedRest, nil)
	}
}

// dial reaches the target, and sends what has come in the meantime.
func (c *flow) dial(ctx context.Context) error {
	dialing, dialed := context.WithTimeout(ctx, cmp.Or(c.all.f.DialTimeout, defaultDialTimeout))
	defer dialed()
	remote, err := c.all.f.Dialer.Dial(dialing, c.all.l.Remote)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.early {
		c.send(remote, p)
	}
	c.early, c.remote = nil, remote
	return nil
}

// answer carries the target's datagrams to the client. It returns nil when nothing has passed
// for a while, or ctx has ended.
func (c *flow) answer(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(ctx, func() { _ = c.remote.Close() })()
	go c.endIdle(ctx, end)
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.remote.Read(buf)
		switch {
		case err == nil:
			c.passed.Store(int64(time.Since(c.began)))
			c.give(buf[:n])
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ECONNREFUSED):
			c.refused(err)
		default:
			return err
		}
	}
}

// endIdle calls end when nothing has passed for a while.
func (c *flow) endIdle(ctx context.Context, end func()) {
	idle := cmp.Or(c.all.f.UDPIdle, defaultUDPIdle)
	for rest := idle; rest > 0 && ctx.Err() == nil; {
		backoff.Sleep(ctx, rest, nil)
		rest = idle - (time.Since(c.began) - time.Duration(c.passed.Load()))
	}
	end()
}

// give sends a datagram to the client.
func (c *flow) give(p []byte) {
	if c.failed.CompareAndSwap(true, false) {
		c.tell(route.Opened, nil)
	}
	if err := c.all.socket.write(p, c.client); err != nil {
		c.dropped.Add(1)
		return
	}
	c.received.Add(int64(len(p)))
}

// refused tells the client that nobody listens at the target, and once whoever hears events.
func (c *flow) refused(err error) {
	c.all.socket.refuse(c.client)
	if c.failed.CompareAndSwap(false, true) {
		c.tell(route.Failed, err)
	}
}

// tell tells what becomes of the flow.
func (c *flow) tell(kind route.Kind, err error) {
	event := route.Event{
		Kind: kind, Listen: c.all.l.Local, Remote: c.all.l.Remote, Err: err,
		Client: target.Endpoint{Network: target.UDP, AddrPort: c.client.AddrPort},
	}
	if kind == route.Closed {
		event.Sent, event.Received, event.Dropped = c.sent.Load(), c.received.Load(), c.dropped.Load()
		event.Duration = time.Since(c.began)
	}
	c.all.f.emit(event)
}
