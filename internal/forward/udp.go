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
	// busyTime is how long a client that is idle is safe from giving its place to a new one.
	busyTime = time.Second
	// maxEarly is how many bytes of one client are kept until the target is reached.
	maxEarly = 128 << 10
	// fullTime is how often it is told that there are too many clients.
	fullTime = 10 * time.Second
	// defaultUDPIdle is Forwarder.UDPIdle where that is 0.
	defaultUDPIdle = time.Minute
	// failedRest is how long a client whose flow has failed is not served.
	failedRest = time.Second
	// maxDatagram is more than any datagram of UDP has: 65,507 bytes, and 65,527 in IPv6.
	maxDatagram = 64 << 10
)

// ErrManyClients means that a UDP port has as many clients as it may have, all of them busy.
var ErrManyClients = errors.New("too many clients at once")

// flows are the clients of one UDP port.
type flows struct {
	f       *Forwarder
	l       *Listener
	socket  *packetSocket
	mu      sync.Mutex
	clients map[peer]*flow

	toldFull time.Time // when it was told last that a client was refused
}

// flow is one client of a UDP port: a connection that its first datagram has opened, and that
// ends when none has passed for a while.
type flow struct {
	all    *flows
	client peer
	began  time.Time
	end    context.CancelCauseFunc
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
	socket, err := newPacketSocket(l.packets)
	if err != nil {
		return err
	}
	all := &flows{f: f, l: l, socket: socket, clients: map[peer]*flow{}}
	deliver := func(from peer, datagrams [][]byte, lost int) {
		if c := all.of(ctx, from, serving); c != nil {
			c.dropped.Add(int64(lost))
			c.deliver(datagrams)
		}
	}
	for {
		err := all.socket.receive(deliver)
		switch { // otherwise, some systems report that a client's host refused an answer
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
	}
}

// of returns the flow of a client, a new one for a new client, or nil if there are too many.
func (all *flows) of(ctx context.Context, client peer, serving *sync.WaitGroup) *flow {
	all.mu.Lock()
	defer all.mu.Unlock()
	c := all.clients[client]
	if c != nil {
		return c
	}
	c = &flow{all: all, client: client, began: time.Now()}
	if len(all.clients) >= maxFlows && !all.makeRoom() {
		all.refuse(c)
		return nil
	}
	ctx, c.end = context.WithCancelCause(ctx)
	all.clients[client] = c
	serving.Go(func() {
		c.serve(ctx)
		all.mu.Lock()
		defer all.mu.Unlock()
		c.end(nil)
		if all.clients[client] == c {
			delete(all.clients, client)
		}
	})
	return c
}

// makeRoom ends the flow on which nothing has passed for the longest time, since many programs
// ask once from each port, and reports whether there is one; all.mu is held.
func (all *flows) makeRoom() bool {
	var oldest *flow
	longest := busyTime
	for _, c := range all.clients {
		if idle := c.idle(); idle >= longest {
			oldest, longest = c, idle
		}
	}
	if oldest == nil {
		return false
	}
	oldest.end(ErrManyClients)
	delete(all.clients, oldest.client)
	return true
}

// refuse tells now and then that there is no place for clients like this one; all.mu is held.
func (all *flows) refuse(c *flow) {
	if time.Since(all.toldFull) >= fullTime {
		all.toldFull = time.Now()
		c.tell(route.Failed, ErrManyClients)
	}
}

// idle returns for how long nothing has passed.
func (c *flow) idle() time.Duration { return time.Since(c.began) - time.Duration(c.passed.Load()) }

// deliver sends datagrams to the target, or keeps them until that is reached.
func (c *flow) deliver(datagrams [][]byte) {
	c.passed.Store(int64(time.Since(c.began)))
	c.mu.Lock()
	remote := c.remote
	if remote == nil {
		c.keep(datagrams)
	}
	c.mu.Unlock()
	if remote != nil {
		c.send(remote, datagrams)
	}
}

// keep keeps datagrams for later, as many as there is room for; c.mu is held.
func (c *flow) keep(datagrams [][]byte) {
	for _, p := range datagrams {
		if c.over || c.held+len(p) > maxEarly {
			c.dropped.Add(1)
			continue
		}
		c.early, c.held = append(c.early, append([]byte(nil), p...)), c.held+len(p)
	}
}

func (c *flow) send(remote pipe.Conn, datagrams [][]byte) {
	sent, dropped := pipe.SendDatagrams(remote, datagrams, c.refused)
	c.sent.Add(sent)
	c.dropped.Add(dropped)
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
	c.send(remote, c.early)
	c.early, c.remote = nil, remote
	return nil
}

// answer carries the target's datagrams to the client. It returns nil when nothing has passed
// for a while, or ctx has ended.
func (c *flow) answer(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { _ = c.remote.Close() })()
	go c.endIdle(ctx)
	read := pipe.DatagramReader(c.remote)
	for {
		err := read(c.give)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ECONNREFUSED):
			c.refused(err)
		default:
			return err
		}
	}
}

// endIdle ends the flow when nothing has passed for a while.
func (c *flow) endIdle(ctx context.Context) {
	idle := cmp.Or(c.all.f.UDPIdle, defaultUDPIdle)
	for rest := idle; rest > 0 && ctx.Err() == nil; {
		backoff.Sleep(ctx, rest, nil)
		rest = idle - c.idle()
	}
	c.end(nil)
}

// give sends datagrams to the client.
func (c *flow) give(datagrams [][]byte, lost int) {
	c.dropped.Add(int64(lost))
	c.passed.Store(int64(time.Since(c.began)))
	if c.failed.CompareAndSwap(true, false) {
		c.tell(route.Opened, nil)
	}
	for len(datagrams) > 0 {
		n, err := c.all.socket.send(datagrams, c.client)
		for _, p := range datagrams[:n] {
			c.received.Add(int64(len(p)))
		}
		datagrams = datagrams[n:]
		if err != nil {
			c.dropped.Add(1)
			datagrams = datagrams[1:]
		}
	}
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
