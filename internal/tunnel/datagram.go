package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/spdy"
)

// refusedLength stands in the place of a datagram's length, and for none: nobody has listened
// for an earlier one. No datagram of UDP is so long.
const refusedLength = 1<<16 - 1

// datagrams are the datagrams in a stream: each is its length, in 16 bits, and its bytes.
type datagrams struct{ stream *spdy.Stream }

// datagramBuffers have room for a datagram. They are lent only once a whole one has come: most flows
// wait, and a peer may never send the rest. Until then it is in the stream's own buffer, which counts.
var datagramBuffers = sync.Pool{New: func() any { return new([nonblock.MaxDatagram]byte) }}

// Read returns one datagram. What p has no room for is lost, as with UDP. The error is
// ECONNREFUSED where the far end says so, and then the next Read may succeed.
func (d datagrams) Read(p []byte) (int, error) {
	length, err := d.readLength()
	if err != nil {
		return 0, err
	}
	return d.readBytes(p, length)
}

// ReadDatagrams is for pipe.DatagramReader: it delivers one datagram at a time.
func (d datagrams) ReadDatagrams(deliver func(datagrams [][]byte, lost int)) error {
	length, err := d.readLength()
	if err != nil {
		return err
	}
	d.stream.Await(length)
	buf := datagramBuffers.Get().(*[nonblock.MaxDatagram]byte)
	defer datagramBuffers.Put(buf)
	n, err := d.readBytes(buf[:], length)
	if err == nil {
		deliver([][]byte{buf[:n]}, 0)
	}
	return err
}

// readLength reads what precedes a datagram.
func (d datagrams) readLength() (int, error) {
	var header [2]byte
	if _, err := io.ReadFull(d.stream, header[:]); err != nil {
		return 0, err
	}
	length := int(binary.BigEndian.Uint16(header[:]))
	if length == refusedLength {
		return 0, os.NewSyscallError("read", syscall.ECONNREFUSED)
	}
	return length, nil
}

func (d datagrams) readBytes(p []byte, length int) (int, error) {
	n, err := io.ReadFull(d.stream, p[:min(length, len(p))])
	if err == nil && n < length {
		_, err = io.CopyN(io.Discard, d.stream, int64(length-n))
	}
	if err == io.EOF { //nolint:errorlint // itself: half a datagram is no end
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write sends one datagram, or returns pipe.ErrDropped.
func (d datagrams) Write(p []byte) (int, error) {
	if len(p) >= refusedLength {
		return 0, os.NewSyscallError("write", syscall.EMSGSIZE)
	}
	return d.send(uint16(len(p)), p)
}

// DatagramConn is a connection to a UDP port at the far end: each Write sends one datagram, and
// each Read returns one. A Write that cannot be sent now returns pipe.ErrDropped. Otherwise it is
// as Conn.
type DatagramConn struct{ *Conn }

// Read returns one datagram. ECONNREFUSED means that nobody has listened for an earlier one.
func (c *DatagramConn) Read(p []byte) (int, error) {
	n, err := datagrams{c.stream}.Read(p)
	return n, c.explainRead(err)
}

// ReadDatagrams is for pipe.DatagramReader. Its errors are those of Read.
func (c *DatagramConn) ReadDatagrams(deliver func(datagrams [][]byte, lost int)) error {
	return c.explainRead(datagrams{c.stream}.ReadDatagrams(deliver))
}

func (c *DatagramConn) explainRead(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return &PortError{To: c.to, Reason: ReasonRefused, Text: fmt.Sprintf("%s: %v", c.to.Named(), syscall.ECONNREFUSED)}
	}
	return c.explain(err)
}

// Write sends one datagram.
func (c *DatagramConn) Write(p []byte) (int, error) {
	n, err := datagrams{c.stream}.Write(p)
	return n, c.explain(err)
}

// Refuse tells the far end that nobody listens for a datagram of its.
func (c *DatagramConn) Refuse() { datagrams{c.stream}.Refuse() }

// Refuse tells the peer that nobody has listened for a datagram of its.
func (d datagrams) Refuse() { _, _ = d.send(refusedLength, nil) }

func (d datagrams) send(length uint16, p []byte) (int, error) {
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(p)), length), p...)
	queued, err := d.stream.WriteDatagram(frame)
	if err == nil && !queued {
		err = pipe.ErrDropped
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
