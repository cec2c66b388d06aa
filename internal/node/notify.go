package node

import (
	"fmt"
	"net"
	"strings"
)

// The states for Notify.
const (
	NotifyReady    = "READY=1"
	NotifyStopping = "STOPPING=1"
)

// Notify reports the state of this process to systemd, or to another service manager
// that has set NOTIFY_SOCKET to address (sd_notify(3)). It does nothing if address is "".
func Notify(address, state string) error {
	if address == "" {
		return nil
	}
	// "@" begins an abstract name, as in package net.
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
