//go:build !linux

package forward

import (
	"sync/atomic"
	"time"

	"porthole.dev/porthole/internal/pipe"
)

// activity tells whether a client's connection is in use, which moves its bytes through conn.
type activity struct{ conn *watched }

// watched is a connection that keeps the times of its last reads and writes.
type watched struct {
	socket
	born       time.Time
	came, went atomic.Int64 // since born, in ns
	ended      atomic.Bool  // by the client
}

func activityOf(c socket) activity { return activity{&watched{socket: c, born: time.Now()}} }

// moves reports whether the connection is in use.
func (a activity) moves() bool {
	now := time.Since(a.conn.born)
	came, went := now-time.Duration(a.conn.came.Load()), now-time.Duration(a.conn.went.Load())
	return inUse(came, went, came < went || a.conn.ended.Load())
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.socket.Read(p)
	if n > 0 {
		w.came.Store(int64(time.Since(w.born)))
	}
	if err != nil {
		w.ended.Store(true)
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.socket.Write(p)
	if n > 0 {
		w.went.Store(int64(time.Since(w.born)))
	}
	return n, err
}

func (w *watched) CloseWrite() error { return w.socket.CloseWrite() }
func (w *watched) Close() error      { return w.socket.Close() }

// Reset is called by pipe.Reset.
func (w *watched) Reset() error { return pipe.Reset(w.socket) }
