//go:build !linux

package forward

import (
	"net"

	"porthole.dev/porthole/internal/nonblock"
)

// batches are of one datagram: more by one call is Linux' own.
type batches struct{ buf []byte }

func newBatches(*net.UDPConn) (batches, error) {
	return batches{make([]byte, nonblock.MaxDatagram)}, nil
}

// receive waits for a datagram, and calls deliver with it, which is valid until it returns.
func (s *packetSocket) receive(deliver func(from peer, datagrams [][]byte, lost int)) error {
	var control [128]byte
	n, size, _, from, err := s.ReadMsgUDPAddrPort(s.buf, control[:])
	if err == nil {
		deliver(peer{from, s.destination(control[:size])}, [][]byte{s.buf[:n]}, 0)
	}
	return err
}

// send sends a datagram to a client, and returns how many until the error.
func (s *packetSocket) send(datagrams [][]byte, to peer) (n int, err error) {
	if _, _, err := s.WriteMsgUDPAddrPort(datagrams[0], source(to.at), to.AddrPort); err != nil {
		return 0, err
	}
	return 1, nil
}
