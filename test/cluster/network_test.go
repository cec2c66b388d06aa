package cluster

import (
	"net/netip"
	"testing"
)

func TestChoosePrefix(t *testing.T) {
	first := netip.MustParseAddr("10.1.4.0")
	for _, test := range []struct {
		name, wanted, want string
		taken              []string
	}{
		{name: "usual", want: "10.1.4.0/24"},
		{name: "next", taken: []string{"10.1.4.128/25", "10.1.5.0/24"}, want: "10.1.6.0/24"},
		{name: "asked for", wanted: "10.9.8.7/24", taken: []string{"10.9.0.0/16"}, want: "10.9.8.0/24"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, prefix := range test.taken {
				taken = append(taken, netip.MustParsePrefix(prefix))
			}
			got, err := choosePrefix(test.wanted, first, taken)
			if err != nil || got.String() != test.want {
				t.Errorf("got %v, %v; want %s", got, err, test.want)
			}
		})
	}
	if got, err := choosePrefix("", first, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Errorf("got %v where nothing is free", got)
	}
}
