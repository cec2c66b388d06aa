package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The devices are bridges, both: some kernels have no dummy device, and the pods need a bridge anyway.
// No forwarding between them is needed, since both gateways are this machine.
const (
	nodeBridge = "porthole-node"
	podBridge  = "porthole-pods"
)

// network is where the cluster's addresses are.
type network struct {
	NodeCIDR, PodCIDR string
	// NodeIP and PodGateway are the first address of each.
	NodeIP, PodGateway string
}

// chooseNetwork takes the networks that were asked for, else the usual ones, else the next ones that are free.
func chooseNetwork(options Options) (network, error) {
	taken, err := takenPrefixes()
	if err != nil {
		return network{}, err
	}
	node, err := choosePrefix(options.NodeCIDR, netip.MustParseAddr("10.200.0.0"), taken)
	if err != nil {
		return network{}, fmt.Errorf("choose node network: %w", err)
	}
	pods, err := choosePrefix(options.PodCIDR, netip.MustParseAddr("10.1.4.0"), append(taken, node))
	if err != nil {
		return network{}, fmt.Errorf("choose pod network: %w", err)
	}
	return network{
		NodeCIDR:   node.String(),
		PodCIDR:    pods.String(),
		NodeIP:     node.Addr().Next().String(),
		PodGateway: pods.Addr().Next().String(),
	}, nil
}

// choosePrefix tries the networks of 256 addresses from first on.
func choosePrefix(wanted string, first netip.Addr, taken []netip.Prefix) (netip.Prefix, error) {
	if wanted != "" {
		prefix, err := netip.ParsePrefix(wanted)
		return prefix.Masked(), err
	}
	bytes := first.As4()
	for third := int(bytes[2]); third < 256; third++ {
		bytes[2] = byte(third)
		prefix := netip.PrefixFrom(netip.AddrFrom4(bytes), 24)
		if !overlapsAny(prefix, taken) {
			return prefix, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("none of %s/16 is free", first)
}

func overlapsAny(prefix netip.Prefix, taken []netip.Prefix) bool {
	for _, other := range taken {
		if prefix.Overlaps(other) {
			return true
		}
	}
	return false
}

// dump asks again when what is listed has changed meanwhile.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// takenPrefixes lists what the host already reaches. A default route reaches everything and is no hindrance.
func takenPrefixes() ([]netip.Prefix, error) {
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		prefix, err := netip.ParsePrefix(route.Dst.String())
		if err == nil && prefix.Bits() > 0 {
			taken = append(taken, prefix)
		}
	}
	return taken, nil
}

// make creates the bridges with their addresses. The CNI plugin is not asked to make the pods' bridge a gateway:
// it would switch on IP forwarding for the whole host.
func (n network) make() error {
	if err := makeBridge(nodeBridge, n.NodeIP, n.NodeCIDR); err != nil {
		return err
	}
	return makeBridge(podBridge, n.PodGateway, n.PodCIDR)
}

func makeBridge(name, ip, cidr string) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	address, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", ip, prefix.Bits()))
	if err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	return netlink.LinkSetUp(bridge)
}

// clearNetwork removes the bridges and the pods' ends that are still plugged in: a namespace
// dies some time after its last process, and takes its end of the pair along only then.
func clearNetwork(ctx context.Context) error {
	for {
		left, err := removeLinks()
		if err != nil || left == 0 {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("remove the cluster's links: %w", err)
		}
	}
}

// removeLinks removes what it finds and tells how many that was.
func removeLinks() (int, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return 0, fmt.Errorf("list links: %w", err)
	}
	bridges := map[int]bool{}
	for _, link := range links {
		if name := link.Attrs().Name; name == nodeBridge || name == podBridge {
			bridges[link.Attrs().Index] = true
		}
	}
	count := 0
	for _, link := range links {
		if !bridges[link.Attrs().Index] && !bridges[link.Attrs().MasterIndex] {
			continue
		}
		count++
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return count, fmt.Errorf("remove link %s: %w", link.Attrs().Name, err)
		}
	}
	return count, nil
}
