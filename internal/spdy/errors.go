package spdy

import (
	"errors"
	"fmt"
)

// The errors of streams and tunnels, for errors.Is. Besides them a stream that
// its own side closed answers net.ErrClosed, and one past its deadline answers
// os.ErrDeadlineExceeded.
var (
	// ErrReset says that the peer ended the stream with RST_STREAM: what was
	// in flight in either direction may be lost.
	ErrReset = errors.New("stream reset by peer")
	// ErrRefused is the ErrReset of a stream that the peer never took on.
	ErrRefused = fmt.Errorf("stream refused by peer: %w", ErrReset)
	// ErrTunnel says that the tunnel under the stream is gone. It wraps the
	// reason, and is never io.EOF: what was in flight may be lost.
	ErrTunnel = errors.New("tunnel is closed")
	// ErrProtocol says that the peer sent what the protocol forbids or what
	// exceeds a cap; the tunnel is closed for it.
	ErrProtocol = errors.New("spdy protocol error")
	// ErrPingTimeout says that the tunnel was given up after an unanswered ping.
	ErrPingTimeout = errors.New("no answer to ping")
	// ErrGoAway says that this tunnel takes no new streams; open ones stay.
	ErrGoAway = errors.New("tunnel takes no new streams")
	// ErrTooManyStreams says that Config.MaxStreams of this side are open.
	ErrTooManyStreams = errors.New("too many streams in the tunnel")
	// ErrNoMemory says that the tunnel's Share has no room for a stream of this side.
	ErrNoMemory = errors.New("no memory is left for a stream")
	// errUnidirectional is a write's answer on a stream that allows none.
	errUnidirectional = errors.New("stream of the peer takes no answer")
	// errCut says that a write was under way when its stream was closed.
	errCut = errors.New("write was cut short")
	// ErrCongested says that the peer has left so many frames unread that the
	// tunnel queues no more control frames.
	ErrCongested = errors.New("tunnel is congested")
)

// tunnelError is ErrTunnel with its reason.
func tunnelError(reason error) error {
	return fmt.Errorf("%w: %w", ErrTunnel, reason)
}

// protocolError is ErrProtocol with what the peer did.
func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
