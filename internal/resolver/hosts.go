package resolver

import (
	"bufio"
	"bytes"
	"net/netip"
	"strings"
)

// parseHosts returns the addresses that a file of hosts(5) has for a host, in its order: 16 at
// most. What is not understood is skipped, and reading ends at a line of more than 64 KiB.
func parseHosts(file []byte, host string) (addrs []netip.Addr) {
	host = strings.TrimSuffix(host, ".")
	lines := bufio.NewScanner(bytes.NewReader(file))
	for lines.Scan() && len(addrs) < maxAddrs {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			if strings.EqualFold(strings.TrimSuffix(name, "."), host) {
				addrs = append(addrs, addr.Unmap())
				break
			}
		}
	}
	return addrs
}
