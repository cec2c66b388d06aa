package container

import (
	"context"

	"porthole.dev/porthole/internal/pipe"
)

// datagramConn is a connection of datagrams to a member, and ends with that: nothing else tells it that its peer is gone, and the
// next container is reached by another one.
type datagramConn struct {
	pipe.Conn
	of   context.Context // ends with the member, whose end is its cause
	stay func() bool     // keeps it from being closed then
}

// endWith has a connection of datagrams end with a member.
func endWith(m *member, conn pipe.Conn) *datagramConn {
	return &datagramConn{conn, m.life, context.AfterFunc(m.life, func() { _ = conn.Close() })}
}

// ReadDatagrams is for pipe.DatagramReader.
func (c *datagramConn) ReadDatagrams(deliver func(datagrams [][]byte, lost int)) error {
	return c.explain(pipe.DatagramReader(c.Conn)(deliver))
}

// WriteDatagrams is for pipe.DatagramWriter.
func (c *datagramConn) WriteDatagrams(datagrams [][]byte) (int, error) {
	n, err := pipe.DatagramWriter(c.Conn)(datagrams)
	return n, c.explain(err)
}

// Read returns one datagram.
func (c *datagramConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.explain(err)
}

// explain replaces the error of a connection that was closed because its container has ended.
func (c *datagramConn) explain(err error) error {
	if err != nil && c.of.Err() != nil {
		return context.Cause(c.of)
	}
	return err
}

// Close implements pipe.Conn.
func (c *datagramConn) Close() error {
	c.stay()
	return c.Conn.Close()
}
