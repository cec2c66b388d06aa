package node

import (
	"fmt"
	"net"
	"strings"
)

// What Notify tells a service manager.
const (
	NotifyReady    = "READY=1"
	NotifyStopping = "STOPPING=1"
)

// Notify tells systemd, or whoever has set NOTIFY_SOCKET to address, how this
// process is (sd_notify(3)). It does nothing if address is "".
func Notify(address, state string) error {
	if address == "" {
		return nil
	}
	// "@" begins a name without a file, as in package net.
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return fmt.Errorf("notify %q: not a Unix socket", address)
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
