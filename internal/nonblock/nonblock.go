// Package nonblock makes system calls on sockets and pipes that never block, without
// telling Go's scheduler about them. It must not know what the bytes are for.
//
// The runtime expects that any call may block: it takes note of it, has its
// monitor wake up every 20 µs meanwhile, and gives the processor away under a call that
// takes longer, for instance because TCP delivers what is written on loopback to its
// reader at once. With a call for each few kilobytes this costs a forwarder a quarter of
// its processor time. A call on a descriptor in non-blocking mode needs none of that;
// whoever has nothing to read or no room to write waits in the runtime's poller, as always.
package nonblock

import (
	"io"
	"net"
)

// MaxDatagram is more bytes than any datagram of UDP has: 65,507 at most, and 65,527 in IPv6.
const MaxDatagram = 64 << 10

// Conn returns c with the reads and writes of Of.
func Conn(c net.Conn) net.Conn { return conn{c, Of(c)} }

type conn struct {
	net.Conn
	calls io.ReadWriter
}

// Read implements net.Conn.
func (c conn) Read(p []byte) (int, error) { return c.calls.Read(p) }

// Write implements net.Conn.
func (c conn) Write(p []byte) (int, error) { return c.calls.Write(p) }

// Listener accepts connections as Conn returns them.
type Listener struct{ net.Listener }

// Accept implements net.Listener.
func (l Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Conn(c), nil
}
