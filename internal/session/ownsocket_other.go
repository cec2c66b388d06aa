//go:build !linux

package session

import (
	"context"

	"porthole.dev/porthole/internal/target"
)

// ownSocket is none: what listens can be seen on Linux alone, and a target there is in another network.
type ownSocket struct{}

func openOwnSocket(context.Context) (*ownSocket, error) { return &ownSocket{}, nil }
func (*ownSocket) isAmong([]target.Socket) bool         { return false }
func (*ownSocket) Close() error                         { return nil }
