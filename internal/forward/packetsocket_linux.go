package forward

import (
	"net"

	"porthole.dev/porthole/internal/nonblock"
)

// batches are what a packetSocket receives and sends by.
type batches = *nonblock.Datagrams

func newBatches(c *net.UDPConn) (batches, error) { return nonblock.NewDatagrams(c) }

// receive waits for datagrams, and calls deliver for each client with those that it has sent,
// which are valid until it returns. The kernel does not tell whose the lost ones were: they are
// counted as the last client's.
func (s *packetSocket) receive(deliver func(from peer, datagrams [][]byte, lost int)) error {
	return s.Receive(func(b *nonblock.Batch) {
		all := b.All()
		from, begin := s.sender(b, 0), 0
		for i := 1; i < len(all); i++ {
			if p := s.sender(b, i); p != from {
				deliver(from, all[begin:i], 0)
				from, begin = p, i
			}
		}
		deliver(from, all[begin:], b.Lost())
	})
}

// sender returns who has sent a datagram.
func (s *packetSocket) sender(b *nonblock.Batch, i int) peer {
	return peer{b.From(i), s.destination(b.Control(i))}
}

// send sends datagrams to a client, and returns how many until the error.
func (s *packetSocket) send(datagrams [][]byte, to peer) (n int, err error) {
	return s.Send(datagrams, to.AddrPort, source(to.at))
}
