package pinned

import (
	"bufio"
	"crypto/tls"
	"net"
	"sync"
)

// Conn is a connection whose other end has proven its key. What one Write is given leaves by few
// writes to the connection below it, although TLS makes many records of it.
type Conn struct {
	*tls.Conn
	below *gatherer
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.below.hold()
	n, err := c.Conn.Write(p)
	if failed := c.below.release(); err == nil && failed != nil {
		return 0, failed
	}
	return n, err
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.below.Conn }

const (
	// readSize is how much is read at once from the connection below: several records. Until the
	// other end has proven its key it is strangerSize.
	readSize     = 64 << 10
	strangerSize = 4 << 10
	// gatherSize is how much is held back at most.
	gatherSize = 1 << 20
)

// gatherer holds back what is written until it is released, or is much.
type gatherer struct {
	net.Conn
	reader *bufio.Reader

	mu   sync.Mutex
	held int // calls of hold that were not released
	out  []byte
	err  error // of a write; there is none after it
}

func newGatherer(conn net.Conn) *gatherer {
	return &gatherer{Conn: conn, reader: bufio.NewReaderSize(conn, strangerSize)}
}

// proven gives the connection its full buffer, after the handshake.
func (g *gatherer) proven() { g.reader = bufio.NewReaderSize(g.reader, readSize) }

func (g *gatherer) Read(p []byte) (int, error) { return g.reader.Read(p) }

func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out = append(g.out, p...)
	if g.held > 0 && len(g.out) < gatherSize {
		return len(p), g.err
	}
	return len(p), g.flush()
}

func (g *gatherer) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held++
}

func (g *gatherer) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held--; g.held > 0 {
		return g.err
	}
	return g.flush()
}

// flush writes what was held back; g.mu is held.
func (g *gatherer) flush() error {
	if len(g.out) > 0 && g.err == nil {
		_, g.err = g.Conn.Write(g.out)
	}
	g.out = g.out[:0]
	return g.err
}
