package pipe

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"porthole.dev/porthole/internal/nonblock"
)

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
	refuse, ignore := func(error) {}, func(error) {}
	if r, ok := a.(interface{ Refuse() }); ok {
		refuse = func(error) { r.Refuse() }
	}
	back.Go(func() {
		defer a.Close()
		p.move(a, b, &p.fromB, refuse, ignore)
	})
	p.move(b, a, &p.fromA, ignore, refuse)
	b.Close()
	back.Wait()
	return DatagramCounts{Counts{p.fromA.Load(), p.fromB.Load()}, p.dropped.Load()}, p.err
}

type datagramPair struct {
	fromA, fromB, dropped atomic.Int64
	once                  sync.Once
	err                   error // of the side that has ended first
}

// move carries the datagrams of one side, until that ends. A refusal is found by a Read of the side
// that refuses, or by a Write to it: srcRefused and dstRefused are called.
func (p *datagramPair) move(dst, src Conn, count *atomic.Int64, srcRefused, dstRefused func(error)) {
	read, write := DatagramReader(src), DatagramWriter(dst)
	deliver := func(datagrams [][]byte, lost int) {
		sent, dropped := SendDatagrams(write, datagrams, dstRefused)
		count.Add(sent)
		p.dropped.Add(dropped + int64(lost))
	}
	for {
		err := read(deliver)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			srcRefused(err)
		case err != nil:
			p.once.Do(func() {
				if err != io.EOF { //nolint:errorlint // itself: a tunnel that ended in one is something else
					p.err = err
				}
			})
			return
		}
	}
}

// DatagramReader returns a function, for one goroutine, that waits for datagrams of a Conn. It calls
// deliver with those that there are, which are valid until it returns, and with how many came since
// the last call and had no room. It is the Conn's own ReadDatagrams, or else reads one by Read.
func DatagramReader(src Conn) func(deliver func(datagrams [][]byte, lost int)) error {
	if b, ok := src.(interface {
		ReadDatagrams(deliver func(datagrams [][]byte, lost int)) error
	}); ok {
		return b.ReadDatagrams
	}
	buf := make([]byte, nonblock.MaxDatagram)
	one := make([][]byte, 1)
	return func(deliver func([][]byte, int)) error {
		n, err := src.Read(buf)
		if err == nil {
			one[0] = buf[:n]
			deliver(one, 0)
		}
		return err
	}
}

// DatagramWriter returns a function that sends datagrams by a Conn, and returns how many until err.
// It is the Conn's own WriteDatagrams, or else sends the first one by Write.
func DatagramWriter(dst Conn) func(datagrams [][]byte) (n int, err error) {
	if b, ok := dst.(interface {
		WriteDatagrams(datagrams [][]byte) (n int, err error)
	}); ok {
		return b.WriteDatagrams
	}
	return func(datagrams [][]byte) (int, error) {
		if _, err := dst.Write(datagrams[0]); err != nil {
			return 0, err
		}
		return 1, nil
	}
}

// SendDatagrams sends datagrams by a function such as a DatagramWriter's. It returns the bytes of
// those that were sent, and how many datagrams were not. ECONNREFUSED is the answer to an earlier
// datagram: refused is called, and the one whose sending returned it is sent again.
func SendDatagrams(write func(datagrams [][]byte) (n int, err error), datagrams [][]byte, refused func(error)) (sent, dropped int64) {
	for again := false; len(datagrams) > 0; { // again: the first one was refused once
		n, err := write(datagrams)
		for _, p := range datagrams[:n] {
			sent += int64(len(p))
		}
		datagrams = datagrams[n:]
		again = n == 0 && again
		switch {
		case err == nil:
		case errors.Is(err, syscall.ECONNREFUSED) && !again:
			refused(err)
			again = true
		default:
			dropped++
			datagrams, again = datagrams[1:], false
		}
	}
	return sent, dropped
}
