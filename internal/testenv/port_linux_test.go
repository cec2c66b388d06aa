package testenv_test

import (
	"net"
	"strconv"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// TestFreePort: no port is given twice, and each can be listened on, on all addresses.
func TestFreePort(t *testing.T) {
	testenv.NoLeaks(t)
	given := map[uint16]bool{}
	for range 300 {
		port := testenv.FreePort(t)
		if given[port] {
			t.Errorf("port %d is given twice", port)
		}
		given[port] = true
		for _, host := range []string{"127.0.0.1", "::1", "0.0.0.0"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
		}
	}
}
