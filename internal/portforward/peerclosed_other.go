//go:build !linux

package portforward

import "net"

// peerClosed cannot find out here without reading.
func peerClosed(net.Conn) bool { return false }
