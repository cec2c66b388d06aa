//go:build !linux

package kube

import (
	"context"
	"net"
)

// dialBurst is dial: only Linux lets a socket wait for many bytes.
func dialBurst(ctx context.Context, network, address string) (net.Conn, error) {
	return dial(ctx, network, address)
}
