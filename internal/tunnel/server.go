package tunnel

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

const (
	// pingTime is how often a client is pinged, and how long it may leave a ping
	// unanswered. A shorter outage of the network ends no connection.
	pingTime = 2 * time.Minute
	// maxConns is how many connections of a tunnel are served at once. Streams that were
	// opened and reset no longer count as open in spdy, but still cost work.
	maxConns = 2048
	// leaveTime is how long a tunnel stays after the client was told that it ends. What
	// arrives meanwhile is refused, and opened again by another tunnel; closed at once, what
	// is on its way could not be told from what was served.
	leaveTime = time.Second
)

// ServerConfig says what a tunnel leads to. Only the fields of Proxy are needed.
type ServerConfig struct {
	Proxy
	// SPDY is the configuration of the layer below. For porthole.v1, NewServer sets flow control,
	// and pings unless there is a PingTimeout.
	SPDY spdy.Config
	// IdleTime is how long the tunnel may be without connections; 0 means for ever.
	IdleTime time.Duration
	// Sandbox, if set, ends when what the tunnel leads to is gone. The tunnel then ends
	// with its last connection, and soon if it has none.
	Sandbox context.Context
	// OpenTarget, if set, opens the targets that clients name, whose connections then do
	// without Dialer. The identity is that of an earlier target, or "". It is called from
	// many goroutines at once.
	OpenTarget func(ctx context.Context, name, identity string) (ServerTarget, error)
	// Bind, if set, listens at what the tunnel leads to, for the way back; nil has that refused as
	// unsupported. It is called from many goroutines at once.
	Bind route.Binder
	// Listening, if set, tells what listens at what the tunnel leads to; nil has that refused as unsupported. It is
	// called from many goroutines at once.
	Listening route.Watch
	// Listeners are those of all tunnels of this program; nil means that there is no other.
	Listeners *Listeners
	// Accept, if set, handles the streams of a tunnel that speaks another protocol than
	// porthole.v1, and calls Serve for each connection.
	Accept func(*spdy.Stream)
}

// Server is the far end of one tunnel: it connects each connection that the client opens to
// its port.
type Server struct {
	cfg   ServerConfig
	conn  *spdy.Conn
	stock bool            // another protocol than porthole.v1
	ctx   context.Context // of connections: ends with the tunnel, whose error is its cause
	end   context.CancelCauseFunc
	work  sync.WaitGroup // connections and targets

	targets   sync.Map // the heldTargets that are open, by the ids of their streams
	listening atomic.Int32
	watching  atomic.Int32

	mu        sync.Mutex
	conns     int         // with listeners
	idle      *time.Timer // runs while conns is 0
	idleSince time.Time   // when conns became 0
	gone      bool        // the sandbox is: no more connections are waited for
	left      time.Time   // when the client was told that the tunnel ends; zero before
}

// NewServer starts a tunnel over transport, which it owns from here on; see spdy.New. Run
// must follow.
func NewServer(transport io.ReadWriteCloser, cfg ServerConfig) *Server {
	cfg.SPDY.Server = true
	if cfg.Accept == nil {
		cfg.SPDY.FlowControl = true
		if cfg.SPDY.PingTimeout == 0 {
			cfg.SPDY.PingInterval, cfg.SPDY.PingTimeout = pingTime, pingTime
		}
	}
	if cfg.Listeners == nil {
		cfg.Listeners = &Listeners{}
	}
	cfg.IdleTime = cmp.Or(cfg.IdleTime, math.MaxInt64)
	s := &Server{cfg: cfg, conn: spdy.New(transport, cfg.SPDY), stock: cfg.Accept != nil, idleSince: time.Now()}
	if cfg.Accept == nil {
		s.cfg.Accept = s.accept
	}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s
}

// Run serves the tunnel until it ends or ctx does, and waits for its connections. The error
// is why the tunnel has ended.
//
// Connections do not end with ctx but with the tunnel, which goes first: clients are told
// that the tunnel is lost, and not that their ports failed.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	s.idle = time.AfterFunc(s.cfg.IdleTime, s.closeIfIdle)
	s.mu.Unlock()
	if s.cfg.Sandbox != nil {
		defer context.AfterFunc(s.cfg.Sandbox, s.sandboxGone)()
	}
	for {
		stream, err := s.conn.Accept(ctx)
		if err != nil {
			break
		}
		s.cfg.Accept(stream)
	}
	s.conn.Close()
	s.end(s.conn.Err())
	s.work.Wait()
	s.mu.Lock()
	s.idle.Stop()
	s.mu.Unlock()
	return s.conn.Err()
}

// Serve serves a connection on a goroutine of its own, or resets it if there are too many.
// It is called by Accept.
func (s *Server) Serve(c ServerConn, to target.Address) { s.serve(c, to, s.cfg.Dialer) }

func (s *Server) serve(c ServerConn, to target.Address, dialer route.Dialer) {
	if !s.begin() {
		_ = c.Reset()
		c.End(nil)
		return
	}
	s.work.Go(func() {
		proxy := s.cfg.Proxy
		proxy.Dialer = dialer
		err := proxy.Serve(s.ctx, c, to)
		s.served(errors.Is(err, ErrNoSandbox))
	})
}

// begin counts a connection in, or a listener, which keeps a tunnel from being idle too. It returns false
// if there are too many.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= maxConns {
		return false
	}
	s.conns++
	s.idle.Stop()
	return true
}

// served counts a connection out. If that has found the sandbox gone, so is the tunnel's.
func (s *Server) served(gone bool) {
	s.mu.Lock()
	s.gone = s.gone || gone
	s.conns--
	if s.conns == 0 {
		s.idleSince = time.Now()
		s.idle.Reset(s.cfg.IdleTime)
	}
	gone = s.gone
	s.mu.Unlock()
	if gone {
		s.closeIfIdle()
	}
}

// sandboxGone ends the tunnel once it is idle, so that the client opens a new one to what
// comes next. Open connections stay open: the process they lead to may be about to end by itself.
func (s *Server) sandboxGone() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.closeIfIdle()
}

// closeIfIdle ends the tunnel if it has no connections, and loses none by that: a client of
// porthole.v1 is sent a GOAWAY first, and the timer calls again after leaveTime.
func (s *Server) closeIfIdle() {
	s.mu.Lock()
	over := s.conns == 0 && s.stock
	if s.conns == 0 && !s.stock {
		if s.left.IsZero() {
			s.gone, s.left = true, time.Now()
			s.conn.GoAway()
		}
		if over = time.Since(s.left) >= leaveTime && s.conn.Streams() == 0; !over {
			s.idle.Reset(leaveTime)
		}
	}
	s.mu.Unlock()
	if over {
		s.conn.Close()
	}
}

// IdleSince returns since when the tunnel has had no connections, and whether it has none.
func (s *Server) IdleSince() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idleSince, s.conns == 0
}

// Close ends the tunnel. Run then returns.
func (s *Server) Close() { s.conn.Close() }
