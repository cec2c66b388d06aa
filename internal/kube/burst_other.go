//go:build !linux

package kube

import (
	"context"
	"net"
)

// dialBurst is dial: only Linux' sockets are told how much is worth a wake-up.
func dialBurst(ctx context.Context, network, address string) (net.Conn, error) {
	return dial(ctx, network, address)
}
