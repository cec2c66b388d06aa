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

	"golang.org/x/time/rate"

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
	// maxICMP is how often a second clients are told by ICMP that nobody listens, apart from
	// short bursts. A message takes a socket of its own, and a flood finds many refusals.
	maxICMP, icmpBurst = 1000, 100
	// fullInterval is how often it is told, at most, that there are too many clients.
	fullInterval = 10 * time.Second
	// defaultUDPIdle is Forwarder.UDPIdle where that is 0.
	defaultUDPIdle = time.Minute
	// failedRest is how long a client whose flow has failed is not served.
	failedRest = time.Second
)

// ErrManyClients means that a UDP port has as many clients as it may have, all of them busy.
var ErrManyClients = errors.New("too many clients at once")

// flows are the clients of one UDP port.
type flows struct {
	f       *Forwarder
	l       *route.Listener
	socket  *packetSocket
	icmp    *rate.Limiter
	mu      sync.Mutex
	clients map[peer]*flow

	toldFull time.Time // when it was last told that there are too many clients
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

	refusal atomic.Bool // it was told that the target refuses, and the target has not answered since

	mu     sync.Mutex
	early  [][]byte  // datagrams that came before the target was reached
	held   int       // bytes in early
	remote pipe.Conn // of datagrams; nil until the target is reached
	over   bool      // what comes now is dropped
}

// receive serves one UDP listener until ctx ends.
func (f *Forwarder) receive(ctx, _ context.Context, l *route.Listener, serving *sync.WaitGroup) error {
	socket, err := newPacketSocket(l)
	if ctx.Err() != nil {
		return nil // the socket may be closed by now
	}
	if err != nil {
		return err
	}
	all := &flows{f: f, l: l, socket: socket, icmp: rate.NewLimiter(maxICMP, icmpBurst), clients: map[peer]*flow{}}
	deliver := func(from peer, datagrams [][]byte, lost int) {
		if c := all.flowFor(ctx, from, serving); c != nil {
			c.dropped.Add(int64(lost))
			c.deliver(datagrams)
		}
	}
	for {
		err := all.socket.receive(deliver)
		switch { // any other error is about one client: some systems report that it refused an answer
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
	}
}

// flowFor returns the flow of a client, a new one for a new client, or nil if there are too many.
func (all *flows) flowFor(ctx context.Context, client peer, serving *sync.WaitGroup) *flow {
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

// makeRoom ends the flow that has been idle for longest, and reports whether there was one that
// may go. Many programs send one question from each port and never use it again. all.mu is held.
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
	if time.Since(all.toldFull) >= fullInterval {
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
		c.sendToTarget(remote, datagrams)
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

func (c *flow) sendToTarget(remote pipe.Conn, datagrams [][]byte) {
	sent, dropped := pipe.SendDatagrams(pipe.DatagramWriter(remote), datagrams, c.refused)
	c.sent.Add(sent)
	c.dropped.Add(dropped)
}

// serve carries one client until ctx ends, nothing has passed for a while, or the target fails.
func (c *flow) serve(ctx context.Context) {
	c.tell(route.Opened, nil)
	remote, err := c.dial(ctx)
	if err == nil {
		err = c.answer(ctx, remote)
		if !c.refusal.Load() {
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
func (c *flow) dial(ctx context.Context) (pipe.Conn, error) {
	dialing, dialed := context.WithTimeout(ctx, cmp.Or(c.all.f.DialTimeout, defaultDialTimeout))
	defer dialed()
	remote, err := c.all.f.dial(dialing, c.all.l, c.endpoint())
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendToTarget(remote, c.early)
	c.early, c.remote = nil, remote
	return remote, nil
}

// answer carries the target's datagrams to the client, and closes remote at the end. It returns
// nil when nothing has passed for a while, or ctx has ended.
func (c *flow) answer(ctx context.Context, remote pipe.Conn) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer remote.Close()
	defer context.AfterFunc(ctx, func() { _ = remote.Close() })()
	go c.endIdle(ctx)
	read := pipe.DatagramReader(remote)
	for {
		err := read(c.sendToClient)
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

// sendToClient sends the target's datagrams to the client.
func (c *flow) sendToClient(datagrams [][]byte, lost int) {
	c.dropped.Add(int64(lost))
	c.passed.Store(int64(time.Since(c.began)))
	if c.refusal.CompareAndSwap(true, false) {
		c.tell(route.Opened, nil)
	}
	write := func(datagrams [][]byte) (int, error) { return c.all.socket.send(datagrams, c.client) }
	received, dropped := pipe.SendDatagrams(write, datagrams, func(error) {})
	c.received.Add(received)
	c.dropped.Add(dropped)
}

// refused tells the client by ICMP that nobody listens at the target, and the first time also by
// an event.
func (c *flow) refused(err error) {
	if c.all.icmp.Allow() {
		c.all.socket.refuse(c.client)
	}
	if c.refusal.CompareAndSwap(false, true) {
		c.tell(route.Failed, err)
	}
}

func (c *flow) endpoint() target.Endpoint {
	return target.Endpoint{Network: target.UDP, AddrPort: c.client.AddrPort}
}

// tell tells what becomes of the flow.
func (c *flow) tell(kind route.Kind, err error) {
	event := route.Event{
		Kind: kind, Listen: c.all.l.Local, Remote: c.all.l.Remote, Err: err,
		Client: c.endpoint(),
	}
	if kind == route.Closed {
		event.Sent, event.Received, event.Dropped = c.sent.Load(), c.received.Load(), c.dropped.Load()
		event.Duration = time.Since(c.began)
	}
	c.all.f.emit(event)
}
