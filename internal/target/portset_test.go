package target_test

import (
	"errors"
	"testing"

	"porthole.dev/porthole/internal/target"
)

func TestParsePortSet(t *testing.T) {
	for list, in := range map[string][]uint16{
		"":                 {},
		"80":               {80},
		"80,443,8000-9000": {80, 443, 8000, 8500, 9000},
		"1-65535":          {1, 22, 65535},
		"7-7":              {7},
	} {
		ports, err := target.ParsePortSet(list)
		if err != nil {
			t.Errorf("ParsePortSet(%q): %v", list, err)
		}
		for _, port := range in {
			if !ports.Contain(port) {
				t.Errorf("%q does not contain %d", list, port)
			}
		}
	}
	ports, _ := target.ParsePortSet("80,443,8000-9000")
	for _, port := range []uint16{0, 1, 79, 81, 442, 444, 7999, 9001, 65535} {
		if ports.Contain(port) {
			t.Errorf("%s contains %d", ports, port)
		}
	}
}

func TestParsePortSetWrong(t *testing.T) {
	for _, list := range []string{
		"0", "65536", "-1", "80,", ",80", "80,,81", "http", "9000-8000", "1-2-3", "-", "80-", " 80", "+80", "080", "0-10", "1-0x10",
	} {
		if ports, err := target.ParsePortSet(list); !errors.Is(err, target.ErrPortSet) {
			t.Errorf("ParsePortSet(%q) = %v, %v, want ErrPortSet", list, ports, err)
		}
	}
}

func FuzzParsePortSet(f *testing.F) {
	for _, list := range []string{"", "80", "80,443,8000-9000", "1-65535", "9-8"} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		ports, err := target.ParsePortSet(list)
		if err != nil {
			return
		}
		again, err := target.ParsePortSet(ports.String())
		if err != nil || again.String() != ports.String() {
			t.Errorf("ParsePortSet(%q) = %v, which parses as %v, %v", list, ports, again, err)
		}
	})
}
