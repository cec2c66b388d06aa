package node

import (
	"io"
	"net"

	"porthole.dev/porthole/internal/nonblock"
)

// unannounced is a connection on which Go's scheduler hears of no call. It would expect
// of each that it lasts, and wake up another thread to be there in that case.
type unannounced struct {
	net.Conn
	calls io.ReadWriter
}

func unannounce(c net.Conn) net.Conn { return unannounced{c, nonblock.Of(c)} }

// Read implements net.Conn.
func (u unannounced) Read(p []byte) (int, error) { return u.calls.Read(p) }

// Write implements net.Conn.
func (u unannounced) Write(p []byte) (int, error) { return u.calls.Write(p) }

// unannouncedListener accepts such connections.
type unannouncedListener struct{ net.Listener }

// Accept implements net.Listener.
func (l unannouncedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return unannounce(c), nil
}
