package portforward

import (
	"net/http"
	"strings"

	"porthole.dev/porthole/internal/spdy"
)

// takeV1 does what a stream in porthole.v1 asks for.
func (s *session) takeV1(stream *spdy.Stream) {
	l := &v1Line{stream}
	if network := stream.Headers().Get("network"); network != "tcp" {
		l.refuse(ReasonUnsupported, "network "+strings.ToValidUTF8(network[:min(len(network), 64)], "")+" is not supported")
		return
	}
	port, ok := portHeader(stream)
	if !ok {
		l.refuse(ReasonUnsupported, "port is not a number from 1 to 65535")
		return
	}
	s.begin(l, port)
}

// v1Line is a connection in porthole.v1: one stream.
type v1Line struct {
	*spdy.Stream
}

func (l *v1Line) finished() bool { return false }

func (l *v1Line) fail(err error, text string) { l.refuse(reasonOf(err), text) }

// Reset implements line: the port, or the way to it, has failed.
func (l *v1Line) Reset() error {
	l.refuse(ReasonReset, "connection reset by the port")
	return nil
}

func (l *v1Line) end(error) {}

// refuse ends the stream with a reason. One that has ended already has no use for it.
func (l *v1Line) refuse(reason Reason, text string) {
	_ = l.SendHeaders(http.Header{
		"reason":  {string(reason)},
		"message": {strings.ReplaceAll(clip(text), "\x00", "")},
	})
	l.Stream.Reset()
}
