package target_test

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestCheckVia(t *testing.T) {
	for _, c := range []struct {
		target, ports  string
		via, container string
		reverse        bool
		want           error
	}{
		{"kuard", "80", "stock", "", false, nil},
		{"kuard", "53/udp", "stock", "", false, target.ErrViaPort},
		{"kuard", ":/run/x.sock", "stock", "", false, target.ErrViaPort},
		{"kuard", "5432:db:5432", "stock", "", false, target.ErrViaPort},
		{"kuard", "53/udp", "relay", "", false, nil},
		{"kuard", ":/run/x.sock", "relay", "", false, target.ErrViaPort},
		{"kuard", ":/run/x.sock", "agent", "web", false, nil},
		{"kuard", "80", "agent", "web", false, nil},
		{"kuard", "80", "auto", "web", false, target.ErrNoSocket},
		{"host://db", "80", "relay", "", false, nil},
		{"host://db", "80", "node", "", false, target.ErrRelayOnly},
		{"kuard", "80", "native", "", false, target.ErrVia},
		{"docker://web", "53/udp", "native", "", false, nil},
		{"docker://web", ":/run/x.sock", "agent", "", true, nil},
		{"docker://web", "80", "relay", "", false, target.ErrEngineVia},
		{"kuard", "53/udp", "agent", "", true, nil},
		{"kuard", "53/udp", "stock", "", true, target.ErrReverseVia},
	} {
		to, err := target.Parse(c.target)
		if err != nil {
			t.Fatal(err)
		}
		ports, err := target.ParsePorts(c.ports)
		if err != nil {
			t.Fatal(err)
		}
		via, err := target.ParseVia(c.via)
		if err != nil {
			t.Fatal(err)
		}
		f := target.Forward{Target: to, Ports: ports, Via: via, Container: c.container, Reverse: c.reverse}
		if err := f.CheckVia(); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
