package target_test

import (
	"errors"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/target"
)

// eachOf is a forward to each pod, with ports as they are typed.
func eachOf(t *testing.T, each target.Each, ports string, addresses ...string) target.Forward {
	t.Helper()
	f := target.Forward{Target: target.Target{Scheme: target.Kubernetes, Resource: "sts", Name: "db"}, Each: each, Addresses: addresses}
	for _, text := range strings.Fields(ports) {
		more, err := target.ParsePorts(text)
		if err != nil {
			t.Fatal(err)
		}
		f.Ports = append(f.Ports, more...)
	}
	return f
}

func TestLocals(t *testing.T) {
	for _, test := range []struct {
		each    target.Each
		ports   string
		address string
		place   int
		want    string // the ports of the member, or an error
	}{
		{target.EachPorts, "5432", "localhost", 0, "5432:5432"},
		{target.EachPorts, "5432", "localhost", 2, "5434:5432"},
		{target.EachPorts, "5432 8080:80", "localhost", 3, "5435:5432 8083:80"},
		{target.EachPorts, "8000-8003", "localhost", 1, "8004:8000 8005:8001 8006:8002 8007:8003"},
		{target.EachPorts, "81 80", "localhost", 2, "85:81 84:80"}, // one block, whatever the order
		{target.EachPorts, "53/udp 53", "localhost", 1, "54:53/udp 54:53"},
		{target.EachPorts, ":80", "localhost", 9, "0:80"},
		{target.EachPorts, "127.0.0.9:80:80 81", "localhost", 1, "127.0.0.9:81:80 82:81"},
		{target.EachPorts, "5432 5440", "localhost", 7, "5439:5432 5447:5440"},
		{target.EachPorts, "5432 5440", "localhost", 8, "local port 5440 is another port's of the first pod: no place is left"},
		{target.EachPorts, "5432 5440", "localhost", 9, "local port 5440 is another port's of the first pod: no place is left"},
		{target.EachPorts, "65535", "localhost", 0, "65535:65535"},
		{target.EachPorts, "65535", "localhost", 1, "local port 65535 and 1 for each pod: ports end at 65535: no place is left"},
		{target.EachPorts, "65530-65532", "localhost", 2, "local port 65530 and 3 for each pod: ports end at 65535: no place is left"},
		{target.EachAddresses, "5432 8000-8001", "localhost", 0, "127.0.0.2:5432:5432 127.0.0.2:8000:8000 127.0.0.2:8001:8001"},
		{target.EachAddresses, "5432", "localhost", 300, "127.0.1.46:5432:5432"},
		{target.EachAddresses, ":80", "127.0.1.1", 2, "127.0.1.3:0:80"},
		{target.EachAddresses, "[::1]:80:80 81", "10.0.0.1", 0, "[::1]:80:80 10.0.0.1:81:81"},
		{target.EachAddresses, "[::1]:80:80", "localhost", 1, "address ::1 and 1 more: no place is left"},
		{target.EachAddresses, "80", "127.255.255.255", 1, "address 127.255.255.255 and 1 more: no place is left"},
		{target.EachAddresses, "80", "255.255.255.255", 2, "address 255.255.255.255 and 2 more: no place is left"},
	} {
		f := eachOf(t, test.each, test.ports, test.address).For("db", test.place)
		ports, err := f.Locals(f.Ports)
		var got []string
		for _, p := range ports {
			got = append(got, p.String())
		}
		if err != nil {
			got = []string{err.Error()}
			if !errors.Is(err, target.ErrNoPlace) {
				t.Errorf("%s of %s: %v", test.each, test.ports, err)
			}
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s of %s at place %d: %s, want %s", test.each, test.ports, test.place, got, test.want)
		}
		if again, _ := f.Locals(f.Ports); err == nil && again[0] != ports[0] {
			t.Errorf("%s of %s: the ports that were given have changed", test.each, test.ports)
		}
	}
}

func TestCheckEach(t *testing.T) {
	pinned, process := eachOf(t, target.EachPorts, "80", "localhost"), eachOf(t, target.EachPorts, "80", "localhost")
	pinned.Pin, process.Target = true, target.Target{Scheme: target.PID, PID: 1}
	for want, f := range map[string]target.Forward{
		"": eachOf(t, target.EachAddresses, "80 127.0.0.9:81:81", "localhost"),
		"cannot forward to each pod: pin stays with one":                               pinned,
		"cannot forward to each pod: pid://1 has none":                                 process,
		"cannot forward to each pod: ./a is one socket for all":                        eachOf(t, target.EachPorts, "80 ./a:81", "localhost"),
		"cannot forward to each pod: :: is all addresses":                              eachOf(t, target.EachAddresses, "80", "::"),
		"cannot forward to each pod: consecutive addresses begin with one, not with 2": eachOf(t, target.EachAddresses, "80", "127.0.0.2", "127.0.1.2"),
	} {
		err := f.CheckEach()
		if got := ""; err != nil {
			got = err.Error()
			if got != want || !errors.Is(err, target.ErrEach) {
				t.Errorf("%v, want %s", err, want)
			}
		} else if want != got {
			t.Errorf("no error, want %s", want)
		}
	}
}
