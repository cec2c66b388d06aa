package portforward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"porthole.dev/porthole/internal/portforward/spdy"
)

const (
	// serverPing is how often a frame goes to a stock client. An answer would mean
	// nothing, for with a stalled stream it does not answer; but writing to a
	// client that is gone makes the proxies on the way find out.
	serverPing = 30 * time.Second
	// aliveTime is how long an end of ours, which always answers, may be silent.
	// A network that comes back sooner finds its connections alive.
	aliveTime = 2 * time.Minute
	// maxServed is how many connections of a tunnel are served at once. Streams
	// that are opened and reset no longer count as open, and are still work.
	maxServed = 2048
	// leaveTime is how long a tunnel stays after its client was told that it ends. What
	// arrives meanwhile is refused, and opened again by another tunnel; closed at once, what
	// is on its way could not be told from what was served.
	leaveTime = time.Second
)

// session is a SPDY tunnel at the server's end.
type session struct {
	*caller
	conn     *spdy.Conn
	protocol string // by the name that Events tell
	born     time.Time
	pairs    pairs

	ctx  context.Context // ends with the tunnel, whose error is its cause
	work sync.WaitGroup  // connections

	mu    sync.Mutex
	conns int
	idle  *time.Timer // runs while conns is 0
	since time.Time   // when conns became 0
	gone  bool        // the pod is: conns are the last
	left  time.Time   // when the client was told that the tunnel ends; zero before
}

// newSession begins to serve a tunnel over transport, which conn carries. The splicer
// may be nil.
func (c *caller) newSession(transport io.ReadWriteCloser, conn net.Conn, name string, splicer spdy.Splicer) *session {
	s := &session{caller: c, protocol: protocol, born: time.Now(), since: time.Now()}
	cfg := spdy.Config{Server: true, Share: c.share, Splicer: splicer, Gone: func() bool { return gone(conn) }}
	if isV1(name) {
		s.protocol = protocolV1
		cfg.FlowControl, cfg.PingInterval, cfg.PingTimeout = true, aliveTime, aliveTime
	} else {
		cfg.Nudge, cfg.PingInterval = true, serverPing
	}
	s.conn = spdy.New(transport, cfg)
	return s
}

// run accepts streams until the tunnel ends, and waits for its connections.
func (s *session) run(life context.Context) {
	// Not a child of life: the tunnel goes first, so that clients are not told of
	// ports that failed.
	ctx, cancel := context.WithCancelCause(context.Background())
	s.ctx = ctx
	s.mu.Lock()
	s.idle = time.AfterFunc(s.idleTime(), s.expire)
	s.mu.Unlock()
	if sandbox := s.offer.Sandbox; sandbox != nil {
		defer context.AfterFunc(sandbox, s.podGone)()
	}
	for {
		stream, err := s.conn.Accept(life)
		if err != nil {
			break
		}
		s.take(stream)
	}
	s.conn.Close()
	cancel(s.conn.Err())
	s.pairs.close()
	s.work.Wait()
	s.mu.Lock()
	s.idle.Stop()
	s.mu.Unlock()
	s.server.log.Debug("tunnel closed", "client", s.addr, "age", time.Since(s.born), "err", s.conn.Err())
}

func (s *session) idleTime() time.Duration { return orDefault(s.server.IdleTime, defaultServerIdle) }

// idleSince implements served.
func (s *session) idleSince() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.conns == 0
}

// end implements served. The run loop does the rest.
func (s *session) end() { s.conn.Close() }

// expire closes a tunnel that has no connections; the run loop then ends. It is called again
// by the timer where a client of porthole.v1 has to be told first.
func (s *session) expire() {
	if s.mayClose() {
		s.conn.Close()
	}
}

// mayClose reports whether the tunnel can be closed without losing a connection. A client of
// porthole.v1 is sent a GOAWAY, and expire is called again after leaveTime.
func (s *session) mayClose() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conns > 0:
		return false
	case s.protocol != protocolV1:
		return true
	case s.left.IsZero():
		s.gone, s.left = true, time.Now()
		s.conn.GoAway()
	case time.Since(s.left) >= leaveTime && s.conn.Streams() == 0:
		return true
	}
	s.idle.Reset(leaveTime)
	return false
}

// podGone ends the tunnel of a pod that is no more: its client finds the next one by a
// new tunnel. Connections that live go on, as they may to a process that is ending.
func (s *session) podGone() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.expire()
}

// begin serves a connection.
func (s *session) begin(l line, port uint16) {
	if !s.count() {
		_ = l.Reset()
		l.end(nil)
		return
	}
	s.work.Go(func() {
		err := s.join(s.ctx, l, port, s.protocol)
		s.leave(errors.Is(err, ErrNoSandbox))
	})
}

// leave counts a connection out, and the pod too if it is gone.
func (s *session) leave(gone bool) {
	s.mu.Lock()
	s.gone = s.gone || gone
	s.conns--
	last := s.conns == 0
	if last {
		s.since = time.Now()
		s.idle.Reset(s.idleTime())
	}
	over := last && s.gone
	s.mu.Unlock()
	if over {
		s.expire()
	}
}

// count counts a connection in, if there is room.
func (s *session) count() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= maxServed {
		return false
	}
	s.conns++
	s.idle.Stop()
	return true
}

// take does what a stream asks for.
func (s *session) take(stream *spdy.Stream) {
	if s.protocol == protocolV1 {
		s.takeV1(stream)
		return
	}
	s.takeStock(stream)
}
