package demo

import (
	"net/netip"
	"testing"
)

func TestFreeSubnet(t *testing.T) {
	for _, c := range []struct {
		used []string
		want string // "" for none
	}{
		{nil, "10.1.4.0/24"},
		{[]string{"0.0.0.0/0", "0.0.0.0/1", "127.0.0.0/8"}, "10.1.4.0/24"},
		{[]string{"10.1.4.7/32", "10.1.5.0/25"}, "10.1.6.0/24"},
		{[]string{"10.1.0.0/21"}, "10.1.8.0/24"},
		{[]string{"10.0.0.0/8"}, "172.29.4.0/24"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12"}, "192.168.4.0/24"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, ""},
	} {
		var used []netip.Prefix
		for _, text := range c.used {
			used = append(used, netip.MustParsePrefix(text))
		}
		got, err := freeSubnet(used)
		if (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("%v in use: %v, %v; want %q", c.used, got, err, c.want)
		}
	}
}
