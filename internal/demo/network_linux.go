package demo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bridge is the host's end of the pod's network. Nothing is forwarded or
// masqueraded: the pod talks to this host and to nobody else.
type bridge struct {
	link   *netlink.Bridge
	subnet netip.Prefix
}

// newBridge adds the link; it carries nothing until up.
func newBridge(name string, subnet netip.Prefix) (*bridge, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	b := &bridge{link: &netlink.Bridge{LinkAttrs: attrs}, subnet: subnet}
	err := netlink.LinkAdd(b.link)
	if errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("add bridge %s: %w", name, ErrBridgeExists)
	}
	if err != nil {
		return nil, fmt.Errorf("add bridge %s: %w", name, err)
	}
	return b, nil
}

func (b *bridge) up() error {
	if err := netlink.AddrAdd(b.link, b.addr(bridgeHost)); err != nil {
		return fmt.Errorf("address of bridge %s: %w", b.link.Name, err)
	}
	if err := netlink.LinkSetUp(b.link); err != nil {
		return fmt.Errorf("bridge %s up: %w", b.link.Name, err)
	}
	return nil
}

func (b *bridge) addr(last byte) *netlink.Addr {
	ip := hostIn(b.subnet, last)
	return &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(b.subnet.Bits(), 32)}}
}

// plug gives the namespace of process pid an eth0 on the bridge. pid must
// be a child that is not reaped yet, so that it cannot be another process.
func (b *bridge) plug(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("pod's network: %w", err)
	}
	defer ns.Close()
	if err := b.addVeth(int(ns.Fd())); err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("pod's network: %w", err)
	}
	defer inside.Close()
	if err := b.configurePod(inside); err != nil {
		return fmt.Errorf("pod's network: %w", err)
	}
	return nil
}

// addVeth makes the peer inside at once: a second eth0 never shows up on
// the host, where it could clash with the real one.
func (b *bridge) addVeth(ns int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = vethName(b.link.Name)
	attrs.MasterIndex = b.link.Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("veth %s up: %w", attrs.Name, err)
	}
	return nil
}

func (b *bridge) configurePod(inside *netlink.Handle) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	gateway := hostIn(b.subnet, bridgeHost).AsSlice()
	return errors.Join(
		inside.LinkSetUp(lo),
		inside.AddrAdd(eth0, b.addr(podHost)),
		inside.LinkSetUp(eth0),
		inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway}),
	)
}

func vethName(bridge string) string { return bridge + "v" }

// removeLinks deletes the bridge and its veth. Missing ones are no error:
// the kernel deletes a veth along with the pod's namespace, in its own time.
func removeLinks(name string) error {
	return errors.Join(removeLink(vethName(name), "veth"), removeLink(name, "bridge"))
}

func removeLink(name, kind string) error {
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if link.Type() != kind {
		return fmt.Errorf("remove link %s: it is a %s, not the demo's %s", name, link.Type(), kind)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// chooseSubnet asks all routing tables: the "local" one holds the host's
// own addresses.
func chooseSubnet() (netip.Prefix, error) {
	routes, err := allRoutes()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list the host's routes: %w", err)
	}
	var used []netip.Prefix
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		ip, _ := netip.AddrFromSlice(route.Dst.IP)
		bits, _ := route.Dst.Mask.Size()
		used = append(used, netip.PrefixFrom(ip.Unmap(), bits))
	}
	return freeSubnet(used)
}

// allRoutes asks again when the tables changed while they were dumped.
func allRoutes() (routes []netlink.Route, err error) {
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for range 5 {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4, all, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return routes, err
}
