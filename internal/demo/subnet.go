package demo

import (
	"errors"
	"net/netip"
)

// podHost and bridgeHost are the last bytes of the two addresses in use.
const (
	bridgeHost = 1
	podHost    = 8
)

// freeSubnet chooses the first /24 that overlaps nothing in use. 10.1.4.0/24
// is where the article's pod lived; the ranges after it serve a host whose
// VPN routes all of 10.0.0.0/8.
func freeSubnet(used []netip.Prefix) (netip.Prefix, error) {
	for _, base := range [][2]byte{{10, 1}, {172, 29}, {192, 168}} {
		for third := byte(4); third < 255; third++ {
			subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], third, 0}), 24)
			if !overlapsAny(subnet, used) {
				return subnet, nil
			}
		}
	}
	return netip.Prefix{}, errors.New("no subnet is free for the pod: the host's routes cover 10.1.0.0/16, 172.29.0.0/16 and 192.168.0.0/16")
}

// overlapsAny passes over prefixes shorter than /8: a default route, and
// the halves and quarters that VPNs split it into, claim no subnet.
func overlapsAny(subnet netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Bits() >= 8 && u.Overlaps(subnet) {
			return true
		}
	}
	return false
}

// hostIn is the address of a /24 that ends in last.
func hostIn(subnet netip.Prefix, last byte) netip.Addr {
	bytes := subnet.Addr().As4()
	bytes[3] = last
	return netip.AddrFrom4(bytes)
}
