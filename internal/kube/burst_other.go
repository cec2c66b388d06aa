//go:build !linux

package kube

import (
	"context"
	"net"
)

// dialBurst is dialServer: only Linux lets a socket wait for many bytes.
func dialBurst(ctx context.Context, network, address string) (net.Conn, error) {
	return dialServer(ctx, network, address)
}
