package pipe

import "net"

// What tests look at of the inside.

const GiveUpChecks = giveUpChecks

type (
	TimedWriter = timedWriter
	Side        = side
)

func NewTimedWriter(dst, src Conn) *TimedWriter { return newTimedWriter(newSide(dst), newSide(src)) }

func (w *timedWriter) CheckStall() { w.checkStall() }

// StopTimer says whether it ran.
func (w *timedWriter) StopTimer() bool { return w.timer.Stop() }

func NewSide(c Conn) *Side { return newSide(c) }

func (s *side) MarkLost(reason error) { s.markLost(reason) }

func (s *side) SetWriteClosed() { s.writeClosed.Store(true) }

func (s *side) ConfirmEOF() error { return s.confirmEOF() }

// HasError says whether a socket has an error to tell.
func HasError(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_, failed := pollSocket(raw)
	return failed
}
