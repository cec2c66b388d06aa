package nonblock

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// burstSize is the size of a read from which more is expected to follow: a TLS
	// record is 16 KiB at most, and what people type is less than that.
	burstSize = 16 << 10
	// burstWake is how many bytes must then have arrived to wake this process up.
	burstWake = 192 << 10
	// burstRest is how long it waits for that many.
	burstRest = time.Millisecond
	// burstBuffer is how much is read at once.
	burstBuffer = 256 << 10
)

// burstConn moderates how often a tunnel wakes this process. A chain of API
// server, kubelet and runtime delivers bulk data in pieces of a few kilobytes,
// and a wake-up for each costs more than everything else that is done with it. So
// after a large read the socket wakes nobody until it holds many bytes (SO_RCVLOWAT
// of socket(7)), or a moment has passed. Network cards do the same, and call it
// interrupt moderation.
type burstConn struct {
	net.Conn
	quick io.ReadWriter // of Conn
	raw   syscall.RawConn

	buf  *[burstBuffer]byte // held during a burst, and after it until the next bytes come
	rest []byte             // of buf, not read yet
	busy bool
	got  int // by take
	err  error

	alarm *time.Timer // calls wake after burstRest of waiting
	mu    sync.Mutex
	high  bool // it takes burstWake to be woken
}

var burstBuffers = sync.Pool{New: func() any { return new([burstBuffer]byte) }}

// Burst returns c, a socket, with the reads of a burstConn and the writes of Of. Anything else is returned
// as it is. One goroutine at a time may read.
func Burst(c net.Conn) net.Conn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	b := &burstConn{Conn: c, quick: Of(c), raw: raw}
	b.alarm = time.AfterFunc(burstRest, b.wake)
	b.alarm.Stop()
	return b
}

// NetConn returns the socket, as tls.Conn's does.
func (c *burstConn) NetConn() net.Conn { return c.Conn }

// Write implements net.Conn.
func (c *burstConn) Write(p []byte) (int, error) { return c.quick.Write(p) }

// Read is called by one goroutine at a time, as TLS does.
func (c *burstConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if !c.busy {
			n, err := c.quick.Read(p)
			c.busy = n >= burstSize
			return n, err
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 && !c.busy {
		c.release()
	}
	return n, nil
}

// fill reads into the buffer.
func (c *burstConn) fill() error {
	if c.buf == nil {
		c.buf = burstBuffers.Get().(*[burstBuffer]byte)
	}
	c.got, c.err = 0, nil
	err := c.raw.Read(c.take)
	c.alarm.Stop()
	c.rest, c.busy = c.buf[:c.got], c.got >= burstSize
	if !c.busy {
		c.wake()
	}
	if c.got > 0 {
		return nil // an error comes again
	}
	c.release()
	switch {
	case err != nil:
		return err
	case c.err != nil:
		return &net.OpError{Op: "read", Net: "tcp", Err: c.err}
	}
	return io.EOF
}

// take reads what has arrived. If that is nothing, it returns false to be called again
// when there is much, or after a while when there is anything.
func (c *burstConn) take(fd uintptr) (done bool) {
	c.got, c.err = Read(int(fd), c.buf[:])
	if !errors.Is(c.err, unix.EAGAIN) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.Reset(burstRest)
	if !c.high {
		c.high = true
		setWake(fd, burstWake)
	}
	return false
}

// wake makes a single byte wake this process up, at once if one is there already.
func (c *burstConn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.high {
		c.high = false
		_ = c.raw.Control(func(fd uintptr) { setWake(fd, 1) }) // it may be closed
	}
}

// setWake cannot fail for a socket of TCP; where it does, more wake-ups are all.
func setWake(fd uintptr, bytes int) {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes)
}

func (c *burstConn) release() {
	burstBuffers.Put(c.buf)
	c.buf, c.rest = nil, nil
}
