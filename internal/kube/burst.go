package kube

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// burstSize is a read's size that says that more is on its way: a TLS
	// record is 16 KiB at most, and what people type is less than that.
	burstSize = 16 << 10
	// burstRest is how long the next read then waits, for more to come.
	burstRest = 100 * time.Microsecond
	// burstBuffer is what is read at once; it holds what a fast chain brings
	// while we rest, and the kernel's buffer holds the rest.
	burstBuffer = 256 << 10
)

// burstConn moderates how often a tunnel wakes this process. A chain of API
// server, kubelet and runtime delivers a download in pieces of a few kilobytes,
// and a wake-up for each costs more than all else that is done with it. So
// after a read that brought much, the next one rests for a moment and takes what
// has come by then: what network cards call interrupt moderation.
type burstConn struct {
	net.Conn

	buf  *[burstBuffer]byte // held during a burst, and after it until the next octets come
	rest []byte             // of buf, not read yet
	busy bool
}

var burstBuffers = sync.Pool{New: func() any { return new([burstBuffer]byte) }}

// dialBurst is dial for tunnels.
func dialBurst(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &burstConn{Conn: conn}, nil
}

// Read is called by one goroutine at a time, as TLS does.
func (c *burstConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if !c.busy {
			n, err := c.Conn.Read(p)
			c.busy = n >= burstSize
			return n, err
		}
		time.Sleep(burstRest)
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
	n, err := c.Conn.Read(c.buf[:])
	c.rest, c.busy = c.buf[:n], n >= burstSize
	if n > 0 {
		return nil // an error comes again
	}
	c.release()
	return err
}

func (c *burstConn) release() {
	burstBuffers.Put(c.buf)
	c.buf, c.rest = nil, nil
}
