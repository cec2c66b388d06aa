package forward_test

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func bound(ls []*route.Listener) (addresses []string) {
	for _, l := range ls {
		addresses = append(addresses, l.Local.Addr().String())
		_ = l.Close()
	}
	return addresses
}

func TestListen(t *testing.T) {
	for name, test := range map[string]struct {
		addresses []string
		port      target.Port
		want      []string
	}{
		"localhost":           {[]string{"localhost"}, target.Port{Remote: 80}, []string{"127.0.0.1", "::1"}},
		"one address":         {[]string{"127.0.0.2"}, target.Port{Remote: 80}, []string{"127.0.0.2"}},
		"two addresses":       {[]string{"127.0.0.2", "127.0.0.3"}, target.Port{Remote: 80}, []string{"127.0.0.2", "127.0.0.3"}},
		"an address twice":    {[]string{"localhost", "127.0.0.1", "::1", "127.0.0.1"}, target.Port{Remote: 80}, []string{"127.0.0.1", "::1"}},
		"one covers another":  {[]string{"localhost", "0.0.0.0"}, target.Port{Remote: 80}, []string{"::1", "0.0.0.0"}},
		"the port's own wins": {[]string{"localhost"}, target.Port{Address: "127.0.0.4", Remote: 80}, []string{"127.0.0.4"}},
	} {
		t.Run(name, func(t *testing.T) {
			ls, err := forward.Listen(t.Context(), test.addresses, []target.Port{test.port})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range ls {
				if l.Local.Port() != ls[0].Local.Port() || l.Local.Port() == 0 || l.Remote != target.TCPPort(80) {
					t.Errorf("listens on %v for %s, beside %v", l.Local, l.Remote, ls[0].Local)
				}
			}
			if got := bound(ls); !slices.Equal(got, test.want) {
				t.Errorf("listens on %v, want %v", got, test.want)
			}
		})
	}
}

// A port that one family has no room for is bound on neither.
func TestListenNeverHalf(t *testing.T) {
	for _, taken := range []string{"127.0.0.1", "::1"} {
		local := testenv.FreePort(t)
		l, err := net.Listen("tcp", net.JoinHostPort(taken, strconv.Itoa(int(local))))
		if err != nil {
			t.Fatal(err)
		}
		free := target.Port{Remote: 80}
		ls, err := forward.Listen(t.Context(), []string{"localhost"}, []target.Port{free, {Local: local, Remote: 80}})
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("with %s taken: %v, %v, want EADDRINUSE", l.Addr(), bound(ls), err)
		}
		_ = l.Close()
		// The other family's half was let go: now both can be had.
		ls, err = forward.Listen(t.Context(), []string{"localhost"}, []target.Port{{Local: local, Remote: 80}})
		if err != nil {
			t.Errorf("with %s free again: %v", l.Addr(), err)
		}
		bound(ls)
	}
}

func TestListenErrors(t *testing.T) {
	for name, test := range map[string]struct {
		addresses []string
		ports     []target.Port
		want      error
	}{
		"twice":              {[]string{"localhost"}, []target.Port{{Local: 8080, Remote: 80}, {Local: 8080, Remote: 81}}, forward.ErrTwice},
		"twice by address":   {[]string{"::1"}, []target.Port{{Local: 8080, Remote: 80}, {Address: "localhost", Local: 8080, Remote: 80}}, forward.ErrTwice},
		"not this machine's": {[]string{"203.0.113.77"}, []target.Port{{Remote: 80}}, syscall.EADDRNOTAVAIL},
	} {
		t.Run(name, func(t *testing.T) {
			ls, err := forward.Listen(t.Context(), test.addresses, test.ports)
			if !errors.Is(err, test.want) {
				t.Errorf("Listen = %v, %v, want %v", bound(ls), err, test.want)
			}
		})
	}
}

func TestListenBadAddress(t *testing.T) {
	_, err := forward.Listen(t.Context(), []string{"nowhere"}, []target.Port{{Remote: 80}})
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("Listen = %v, want an error that names the address", err)
	}
}
