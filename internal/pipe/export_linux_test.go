package pipe

import "net"

// What tests look at of the inside.

const Patience = patience

type (
	TimedWriter = timedWriter
	End         = end
)

func NewTimedWriter(dst, src Conn) *TimedWriter { return newTimedWriter(newEnd(dst), newEnd(src)) }

func (w *timedWriter) Look() { w.look() }

// StopTimer says whether it ran.
func (w *timedWriter) StopTimer() bool { return w.timer.Stop() }

func NewEnd(c Conn) *End { return newEnd(c) }

func (e *end) Lose(reason error) { e.lose(reason) }

func (e *end) Shut() { e.shut.Store(true) }

// Confirm is confirmEnd for a Conn that is a socket.
func (e *end) Confirm() error {
	raw, err := e.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	return confirmEnd(e, raw)
}

// HasError says whether a socket has an error to tell.
func HasError(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_, failed := poll(raw)
	return failed
}
