package nonblock_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"porthole.dev/porthole/internal/nonblock"
	"porthole.dev/porthole/internal/testenv"
)

// udpSocket returns a socket on loopback and its Datagrams.
func udpSocket(t *testing.T, network, address string) (*net.UDPConn, *nonblock.Datagrams) {
	t.Helper()
	l, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d, err := nonblock.NewDatagrams(l.(*net.UDPConn))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.SetReadDeadline(time.Now().Add(testenv.Patience))
	return l.(*net.UDPConn), d
}

// addrPort is where a socket is.
func addrPort(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// More datagrams than one call takes keep their boundaries, their order and their sender.
func TestDatagrams(t *testing.T) {
	testenv.NoLeaks(t)
	for _, family := range []struct{ network, address string }{{"udp4", "127.0.0.1:0"}, {"udp6", "[::1]:0"}, {"udp", "[::]:0"}} {
		a, from := udpSocket(t, family.network, family.address)
		b, to := udpSocket(t, family.network, family.address)
		at := addrPort(b)
		if at.Addr().IsUnspecified() {
			at = netip.AddrPortFrom(netip.MustParseAddr("::1"), at.Port())
		}
		var sent, got [][]byte
		for i := range 50 {
			sent = append(sent, bytes.Repeat([]byte{byte(i)}, i*7))
		}
		sent[20] = make([]byte, 65507)
		go func() {
			if n, err := from.Send(sent, at, nil); n != len(sent) || err != nil {
				t.Errorf("%v: sent %d, %v", family, n, err)
			}
		}()
		for len(got) < len(sent) {
			err := to.Receive(func(b *nonblock.Batch) {
				for i, p := range b.All() {
					got = append(got, bytes.Clone(p))
					if who := b.From(i); who.Port() != addrPort(a).Port() {
						t.Errorf("from %v, want %v", who, addrPort(a))
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range sent {
			if !bytes.Equal(sent[i], got[i]) {
				t.Fatalf("%v: datagram %d has %d bytes, want %d", family, i, len(got[i]), len(sent[i]))
			}
		}
	}
}

// One that is too large is told apart from those before it.
func TestDatagramTooLarge(t *testing.T) {
	_, from := udpSocket(t, "udp4", "127.0.0.1:0")
	b, _ := udpSocket(t, "udp4", "127.0.0.1:0")
	n, err := from.Send([][]byte{{1}, {2}, make([]byte, 65508), {3}}, addrPort(b), nil)
	if n != 2 || !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("sent %d, %v, want 2 and EMSGSIZE", n, err)
	}
}

// What a socket has no room for is counted with what comes after it.
func TestDatagramsLost(t *testing.T) {
	a, from := udpSocket(t, "udp4", "127.0.0.1:0")
	b, to := udpSocket(t, "udp4", "127.0.0.1:0")
	if err := b.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if n, err := from.Send(make([][]byte, 1000), addrPort(b), nil); n != 1000 || err != nil {
		t.Fatalf("sent %d, %v", n, err)
	}
	received, lost := 0, 0
	receive := func(within time.Duration) error {
		_ = b.SetReadDeadline(time.Now().Add(within))
		return to.Receive(func(b *nonblock.Batch) { received += len(b.All()); lost += b.Lost() })
	}
	if err := receive(testenv.Patience); err != nil {
		t.Fatal(err)
	}
	for receive(100*time.Millisecond) == nil { // empty it
	}
	if _, err := a.WriteToUDPAddrPort(nil, addrPort(b)); err != nil {
		t.Fatal(err)
	}
	for received+lost < 1001 {
		if err := receive(testenv.Patience); err != nil {
			t.Fatalf("%d received and %d lost of 1001: %v", received, lost, err)
		}
	}
	if lost == 0 || received+lost > 1001 {
		t.Errorf("%d received and %d lost of 1001", received, lost)
	}
}

func TestDatagramsEnd(t *testing.T) {
	a, d := udpSocket(t, "udp4", "127.0.0.1:0")
	_ = a.SetReadDeadline(time.Unix(1, 0))
	if err := d.Receive(func(*nonblock.Batch) {}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	a.Close()
	if err := d.Receive(func(*nonblock.Batch) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive after Close: %v", err)
	}
	if _, err := d.Send([][]byte{{1}}, addrPort(a), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after Close: %v", err)
	}
}

// A full socket is an error, and is not waited for.
func TestTrySendDoesNotWait(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1]) // nobody reads there
	f := os.NewFile(uintptr(fds[0]), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
	d, err := nonblock.NewDatagrams(c.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = d.TrySend([][]byte{make([]byte, 100)})
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a full socket is %v", err)
	}
}
