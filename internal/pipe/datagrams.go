package pipe

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
)

// MaxDatagram is more than any datagram of UDP has: 65,507 bytes, and 65,527 in IPv6.
const MaxDatagram = 64 << 10

// ErrDropped means that a datagram could not be sent, and that the next one may be.
var ErrDropped = errors.New("datagram dropped")

// DatagramCounts are what CopyDatagrams has delivered, by the side that sent it, and how many
// datagrams it could not deliver.
type DatagramCounts struct {
	Counts
	Dropped int64
}

// CopyDatagrams moves datagrams both ways between two Conns of which each Read returns one and
// each Write sends one, until one of them ends, and closes both. A side that refuses datagrams
// (ECONNREFUSED, udp(7)) has not ended; a is told by its Refuse method, if it has one. The error
// is that of the side which has failed, and nil after an end of file or Close.
func CopyDatagrams(a, b Conn) (DatagramCounts, error) {
	var p datagramPair
	var back sync.WaitGroup
	refuse := func() {}
	if r, ok := a.(interface{ Refuse() }); ok {
		refuse = r.Refuse
	}
	back.Go(func() {
		defer a.Close()
		p.move(a, b, &p.fromB, refuse)
	})
	p.move(b, a, &p.fromA, func() {})
	b.Close()
	back.Wait()
	return DatagramCounts{Counts{p.fromA.Load(), p.fromB.Load()}, p.dropped.Load()}, p.err
}

type datagramPair struct {
	fromA, fromB, dropped atomic.Int64
	once                  sync.Once
	err                   error // of the side that has ended first
}

// move carries the datagrams of one side, until that ends.
func (p *datagramPair) move(dst, src Conn, count *atomic.Int64, refused func()) {
	buf := make([]byte, MaxDatagram)
	for {
		n, err := src.Read(buf)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			refused()
			continue
		case err != nil:
			p.once.Do(func() {
				if err != io.EOF { //nolint:errorlint // itself: a tunnel that ended in one is something else
					p.err = err
				}
			})
			return
		}
		if err := SendDatagram(dst, buf[:n], refused); err != nil {
			p.dropped.Add(1)
			continue
		}
		count.Add(int64(n))
	}
}

// SendDatagram writes a datagram. A refusal is the answer to an earlier one: refused is called,
// and this one is sent nevertheless.
func SendDatagram(dst Conn, p []byte, refused func()) error {
	_, err := dst.Write(p)
	if errors.Is(err, syscall.ECONNREFUSED) {
		refused()
		_, err = dst.Write(p)
	}
	return err
}
