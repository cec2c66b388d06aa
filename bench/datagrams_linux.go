package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A datagram's first byte tells the server what to do with it.
const (
	echoDatagram  = iota // send it back
	countDatagram        // count it
	askCount             // answer with the count so far, 8 bytes big-endian
)

const (
	// batch is how many datagrams the ends send or receive by one call, so that they do not limit
	// what is between them.
	batch = 32
	// inFlight is how many echoes a sender waits for at once.
	inFlight = 64
	// largestDatagram is more than any has that is sent here.
	largestDatagram = 2048
)

// newBatch returns messages with room, or with what is to be sent.
func newBatch(size int, kind byte) []ipv4.Message {
	messages := make([]ipv4.Message, batch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, size)}
		messages[i].Buffers[0][0] = kind
	}
	return messages
}

// enlarge gives a socket room for a burst, beyond what the host allows everybody: what is lost at
// an end says nothing about what is between the ends.
func enlarge(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) })
	return errors.Join(err, os.NewSyscallError("setsockopt", failed))
}

// serveDatagrams is the server of UDP.
func serveDatagrams(address string) error {
	socket, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	_ = enlarge(socket.(*net.UDPConn)) // not in a pod without privileges
	c := ipv4.NewPacketConn(socket)
	received := newBatch(largestDatagram, 0)
	go func() {
		count := uint64(0)
		answers := make([]ipv4.Message, 0, batch)
		for {
			n, err := c.ReadBatch(received, 0)
			if err != nil {
				continue // the answer to an earlier one
			}
			answers = answers[:0]
			for _, m := range received[:n] {
				data := m.Buffers[0][:m.N]
				if m.N == 0 || data[0] == countDatagram {
					count++
					continue
				}
				if data[0] == askCount {
					data = binary.BigEndian.AppendUint64(nil, count)
				}
				answers = append(answers, ipv4.Message{Buffers: [][]byte{data}, Addr: m.Addr})
			}
			sendAll(c, answers)
		}
	}()
	return nil
}

// sendAll sends messages; one that fails is lost.
func sendAll(c *ipv4.PacketConn, messages []ipv4.Message) {
	for len(messages) > 0 {
		n, err := c.WriteBatch(messages, 0)
		if err != nil {
			n = 1
		}
		messages = messages[n:]
	}
}

// sender sends datagrams to the server, by whatever leads there.
type sender struct {
	*net.UDPConn
	batches *ipv4.PacketConn
}

func newSender(address string) (*sender, error) {
	c, err := net.Dial("udp4", address)
	if err != nil {
		return nil, err
	}
	s := &sender{c.(*net.UDPConn), ipv4.NewPacketConn(c.(*net.UDPConn))}
	if err := enlarge(s.UDPConn); err != nil {
		return nil, err
	}
	_, err = s.counted() // what leads there is ready then
	return s, err
}

// counted asks the server how many datagrams it has got.
func (s *sender) counted() (uint64, error) {
	answer := make([]byte, largestDatagram)
	for range 100 {
		_, _ = s.Write([]byte{askCount})
		_ = s.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for n, err := s.Read(answer); err == nil; n, err = s.Read(answer) {
			if n == 8 { // and no late echo
				return binary.BigEndian.Uint64(answer), nil
			}
		}
		time.Sleep(20 * time.Millisecond) // a peer that does not listen yet refuses at once
	}
	return 0, errors.New("the server does not tell what it has counted")
}

// flood sends as many datagrams as it can for a time, and returns how many of them came a second.
func (s *sender) flood(size int, lasting time.Duration) (float64, error) {
	_, came, err := s.counting(func() int {
		messages := newBatch(size, countDatagram)
		for began := time.Now(); time.Since(began) < lasting; {
			sendAll(s.batches, messages)
		}
		return 0 // nobody asks
	})
	return float64(came) / lasting.Seconds(), err
}

// pace sends so many datagrams a second for a time, and returns the part of them that was lost.
func (s *sender) pace(size int, rate float64, lasting time.Duration) (float64, error) {
	sent, came, err := s.counting(func() (sent int) {
		messages := newBatch(size, countDatagram)
		began := time.Now()
		for passed := time.Duration(0); passed < lasting; passed = time.Since(began) {
			for due := int(rate*passed.Seconds()) - sent; due > 0; due = int(rate*passed.Seconds()) - sent {
				n := min(due, batch)
				sendAll(s.batches, messages[:n])
				sent += n
			}
			time.Sleep(200 * time.Microsecond)
		}
		return sent
	})
	return 1 - float64(came)/float64(sent), err
}

// counting has datagrams sent, and returns how many were and how many came.
func (s *sender) counting(send func() int) (sent int, came uint64, err error) {
	before, err := s.counted()
	if err != nil {
		return 0, 0, err
	}
	sent = send()
	time.Sleep(100 * time.Millisecond) // until what is on its way has come
	after, err := s.counted()
	return sent, after - before, err
}

// echo keeps datagrams on their way there and back for a time, and returns how many came back a
// second. Those that get lost are replaced when nothing comes any more.
func (s *sender) echo(size int, lasting time.Duration) (float64, error) {
	messages, received := newBatch(size, echoDatagram), newBatch(largestDatagram, 0)
	came := 0
	began := time.Now()
	for time.Since(began) < lasting {
		for range inFlight / batch {
			sendAll(s.batches, messages)
		}
		for time.Since(began) < lasting {
			_ = s.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := s.batches.ReadBatch(received, 0)
			if err != nil {
				break
			}
			came += n
			sendAll(s.batches, messages[:n])
		}
	}
	if came == 0 {
		return 0, fmt.Errorf("no datagram of %d bytes came back", size)
	}
	return float64(came) / lasting.Seconds(), nil
}
