package pinned

import (
	"bufio"
	"crypto/tls"
	"net"

	"porthole.dev/porthole/internal/nonblock"
)

// Conn is a connection whose other end has proven its key. What one Write is given leaves by few
// writes to the connection below it, although TLS makes many records of it.
type Conn struct {
	*tls.Conn
	below *buffered
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.below.Hold()
	n, err := c.Conn.Write(p)
	if failed := c.below.Release(); err == nil && failed != nil {
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
)

// buffered is the connection below: read by large reads, and written by few writes.
type buffered struct {
	nonblock.Gatherer
	reader *bufio.Reader
}

func newBuffered(conn net.Conn) *buffered {
	return &buffered{nonblock.Gatherer{Conn: conn}, bufio.NewReaderSize(conn, strangerSize)}
}

// proven gives the connection its full buffer, after the handshake.
func (b *buffered) proven() { b.reader = bufio.NewReaderSize(b.reader, readSize) }

func (b *buffered) Read(p []byte) (int, error) { return b.reader.Read(p) }
