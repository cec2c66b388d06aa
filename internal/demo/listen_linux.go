package demo

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// waitListening returns once something inside the pod listens on port.
func (p *podProcess) waitListening(ctx context.Context, port uint16) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !listens(p.pid(), port) {
		select {
		case <-tick.C:
		case <-p.pod.done:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("the application does not listen on port %d: %w: %s", port, ctx.Err(), p.stderr)
		}
	}
	return nil
}

// listens reads the socket tables of the process's network namespace. To
// dial instead would show up as a visitor in the application's own log.
func listens(pid int, port uint16) bool {
	for _, family := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, family))
		if err == nil && hasListener(string(table), port) {
			return true
		}
	}
	return false
}

// hasListener looks for a local port, hexadecimal after the address's colon,
// in state 0A, TCP_LISTEN (proc_pid_net(5)).
func hasListener(table string, port uint16) bool {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != "0A" {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(n) == port {
			return true
		}
	}
	return false
}
