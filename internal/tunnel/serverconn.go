package tunnel

import (
	"strings"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
	"porthole.dev/porthole/internal/target"
)

// resetText is the message of ReasonReset.
const resetText = "connection reset by the port"

// ServerConn is one connection at the server's end, the side towards the client. There is one
// kind for each protocol that a server speaks. Reset gives it up as a failure.
type ServerConn interface {
	pipe.Conn
	Reset() error
	// AfterLoss calls f on a goroutine of its own once the client has reset the
	// connection or the tunnel has gone; Loss then returns which. There is one such f, the
	// last: pipe.Copier sets its own.
	AfterLoss(f func())
	Loss() error
	// Fail ends a connection whose port could not be reached because of err; text is for
	// the client.
	Fail(err error, text string)
	// End follows the end of both directions; err is nil after two ends of file.
	End(err error)
	// SentEOF reports whether the client has been sent the end of file, where it may
	// answer that with a reset.
	SentEOF() bool
}

// streamConn is a ServerConn of porthole.v1: one stream.
type streamConn struct {
	*spdy.Stream
}

// accept handles a stream that a client of porthole.v1 has opened.
func (s *Server) accept(stream *spdy.Stream) {
	c, header, dialer := &streamConn{stream}, stream.Headers(), s.cfg.Dialer
	switch network := header.Get("network"); {
	case network == "target" && s.cfg.OpenTarget != nil:
		s.work.Go(func() { s.holdTarget(c) })
		return
	case network == "listen":
		s.acceptListen(c)
		return
	case network == "listening":
		s.acceptListening(c)
		return
	}
	if _, inTarget := header["In"]; inTarget {
		t, err := s.targetIn(header)
		if err != nil {
			c.Fail(err, err.Error())
			return
		}
		dialer = t
	}
	to, err := parseAddress(header)
	switch {
	case err != nil:
		c.refuse(ReasonUnsupported, err.Error())
	case dialer == nil:
		c.refuse(ReasonUnsupported, "the connection names no target")
	case to.Network == target.UDP:
		s.serve(&datagramServerConn{c, datagrams{stream}}, to, dialer)
	default:
		s.serve(c, to, dialer)
	}
}

// datagramServerConn is a ServerConn of which each Read returns a datagram and each Write sends
// one.
type datagramServerConn struct {
	*streamConn
	datagrams
}

// Read and Write are those of datagrams.
func (c *datagramServerConn) Read(p []byte) (int, error)  { return c.datagrams.Read(p) }
func (c *datagramServerConn) Write(p []byte) (int, error) { return c.datagrams.Write(p) }

func (c *streamConn) SentEOF() bool { return false }

func (c *streamConn) Fail(err error, text string) { c.refuse(ReasonOf(err), text) }

// Reset tells the client that the port has reset the connection.
func (c *streamConn) Reset() error {
	c.refuse(ReasonReset, resetText)
	return nil
}

func (c *streamConn) End(error) {}

// refuse resets the stream and gives the reason. If the stream has ended already, sending
// headers fails, which does not matter.
func (c *streamConn) refuse(reason Reason, text string) {
	_ = c.SendHeaders(spdy.Header{
		"reason":  {string(reason)},
		"message": {strings.ReplaceAll(ClipText(text), "\x00", "")},
	})
	c.Stream.Reset()
}
