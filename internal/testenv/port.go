package testenv

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

// FreePort is a port, on all addresses of this machine, that nobody uses until the test
// ends, for a program to listen on, or to find nobody there.
func FreePort(t testing.TB) uint16 {
	t.Helper()
	port, release, err := ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// ReservePort is FreePort for callers without a test; release gives the port back.
//
// A port that was bound and closed again can be taken by anybody. This one is not among
// those that the system chooses for sockets without a port, and it is reserved against
// other tests, in this process and in others, by binding the same UDP port on ::1.
func ReservePort() (port uint16, release func(), err error) {
	first, last := ephemeral()
	for range 10_000 {
		port := 21_000 + rand.N[uint16](9_000) // below are those of test/cluster, above Kubernetes' node ports
		if first <= port && port <= last {
			continue
		}
		if twin := reserve(port); twin != nil {
			return port, func() { _ = twin.Close() }, nil
		}
	}
	return 0, nil, errors.New("no port from 21000 to 29999 is free and outside of net.ipv4.ip_local_port_range")
}

// reserve reserves a port, or returns nil.
func reserve(port uint16) io.Closer {
	twin, err := net.ListenPacket("udp", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		return nil
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		_ = twin.Close()
		return nil // another program listens there
	}
	_ = l.Close()
	return twin
}

// ephemeral are the ports that Linux chooses for sockets without a port. Other systems
// choose none of those that ReservePort may return.
func ephemeral() (first, last uint16) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, 0
	}
	_, _ = fmt.Sscan(string(text), &first, &last)
	return first, last
}
