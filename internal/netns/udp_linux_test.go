package netns_test

import (
	"bytes"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func dialUDP(t *testing.T, pod *testenv.Pod, port uint16) pipe.Conn {
	t.Helper()
	conn, err := pod.NS.Dial(t.Context(), target.Address{Network: target.UDP, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.(net.Conn).SetReadDeadline(time.Now().Add(time.Minute))
	return conn
}

func TestDialUDP(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		t.Run(address, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			conn := dialUDP(t, pod, testenv.EchoUDP(pod.ListenUDP(t, address)))
			buf := make([]byte, 64<<10)
			for _, size := range []int{5, 0, 1, 65507, 1400} {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				if n, err := conn.Write(sent); n != size || err != nil {
					t.Fatalf("sent %d of %d bytes, %v", n, size, err)
				}
				if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:n], sent) {
					t.Fatalf("sent %d bytes, got %d, %v", size, n, err)
				}
			}
			if _, err := conn.Write(make([]byte, 65528)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("too many bytes: %v, want EMSGSIZE", err)
			}
		})
	}
}

// A refusal is told, and does not stand for good.
func TestDialUDPRefused(t *testing.T) {
	for _, address := range []string{"127.0.0.1:4242", "[::1]:4242"} {
		t.Run(address, func(t *testing.T) {
			testenv.NoLeaks(t)
			pod := testenv.NewPod(t)
			conn := dialUDP(t, pod, 4242)
			for range 3 {
				_, err := conn.Write([]byte("nobody"))
				if err == nil { // a busy kernel may tell of it later
					_, err = conn.Read(make([]byte, 10))
				}
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("nobody listens: %v, want ECONNREFUSED", err)
				}
			}
			testenv.EchoUDP(pod.ListenUDP(t, address))
			buf := make([]byte, 10)
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "hello" {
				t.Errorf("got %q, %v", buf[:n], err)
			}
		})
	}
}
