//go:build !linux

package forward

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"porthole.dev/porthole/internal/pipe"
)

// activity tells whether a client's connection is in use, whose bytes move through near and far.
type activity struct {
	near, far pipe.Conn
	watched   *watched // one of the two; nil for UDP
}

// watched is a connection that keeps the times of its last reads and writes.
type watched struct {
	pipe.Conn
	born       time.Time
	came, went atomic.Int64 // since born, in ns
	ended      atomic.Bool
}

// activityOf watches the near socket, or the far one where the client comes through a tunnel.
func activityOf(near, far pipe.Conn) activity {
	a := activity{near: near, far: far}
	if _, udp := far.(net.PacketConn); udp {
		return a
	}
	if _, ok := near.(syscall.Conn); ok {
		a.watched = &watched{Conn: near, born: time.Now()}
		a.near = a.watched
	} else {
		a.watched = &watched{Conn: far, born: time.Now()}
		a.far = a.watched
	}
	return a
}

// moves reports whether the connection is in use.
func (a activity) moves() bool {
	if a.watched == nil {
		return false
	}
	now := time.Since(a.watched.born)
	came, went := now-time.Duration(a.watched.came.Load()), now-time.Duration(a.watched.went.Load())
	asking := came < went
	if a.far == a.watched { // what the client has sent went out here
		asking = went < came
	}
	return inUse(came, went, asking || a.watched.ended.Load())
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.came.Store(int64(time.Since(w.born)))
	}
	if err != nil {
		w.ended.Store(true)
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if n > 0 {
		w.went.Store(int64(time.Since(w.born)))
	}
	return n, err
}

// Reset is called by pipe.Reset.
func (w *watched) Reset() error { return pipe.Reset(w.Conn) }
