package nonblock

import (
	"net"
	"sync"
)

// gatherSize is how much a Gatherer holds back at most.
const gatherSize = 1 << 20

// Gatherer is a connection below TLS, which makes many records of one large write. Between Hold and
// Release it holds back what is written, so that the records leave together.
type Gatherer struct {
	net.Conn

	mu   sync.Mutex
	held int // calls of Hold that were not released
	out  []byte
	err  error // of a write; there is none after it
}

// NetConn returns the connection below, as tls.Conn's does.
func (g *Gatherer) NetConn() net.Conn { return g.Conn }

// Write implements net.Conn.
func (g *Gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out = append(g.out, p...)
	if g.held > 0 && len(g.out) < gatherSize {
		return len(p), g.err
	}
	return len(p), g.flush()
}

// Hold begins to hold back what is written. Each Hold takes a Release.
func (g *Gatherer) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held++
}

// Release writes what was held back, unless another Hold was not released yet.
func (g *Gatherer) Release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held--; g.held > 0 {
		return g.err
	}
	return g.flush()
}

// flush writes what was held back; g.mu is held.
func (g *Gatherer) flush() error {
	if len(g.out) > 0 && g.err == nil {
		_, g.err = g.Conn.Write(g.out)
	}
	g.out = g.out[:0]
	return g.err
}
