//go:build !linux

package netns

import (
	"context"
	"net/netip"

	"porthole.dev/porthole/internal/pipe"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// Namespace exists only on Linux; see ErrUnsupported.
type Namespace struct{}

// OpenPID returns ErrUnsupported.
func OpenPID(int) (*Namespace, error) { return nil, ErrUnsupported }

// OpenPath returns ErrUnsupported.
func OpenPath(string) (*Namespace, error) { return nil, ErrUnsupported }

// Here returns a Namespace whose methods return ErrUnsupported.
func Here() *Namespace { return &Namespace{} }

// RefuseNames does nothing.
func (*Namespace) RefuseNames(func(netip.Addr) bool) {}

// Check returns ErrUnsupported.
func (*Namespace) Check() error { return ErrUnsupported }

// Close does nothing.
func (*Namespace) Close() error { return nil }

// Wait returns ErrUnsupported.
func (*Namespace) Wait(context.Context) error { return ErrUnsupported }

// Socket returns ErrUnsupported.
func (*Namespace) Socket(_, _, _ int) (int, error) { return -1, ErrUnsupported }

// Bind returns ErrUnsupported.
func (*Namespace) Bind(context.Context, target.Endpoint) (*route.Listener, error) {
	return nil, ErrUnsupported
}

// Do returns ErrUnsupported and does not call f.
func (*Namespace) Do(func() error) error { return ErrUnsupported }

// Dial returns ErrUnsupported.
func (*Namespace) Dial(context.Context, target.Address) (pipe.Conn, error) {
	return nil, ErrUnsupported
}

// Listening returns ErrUnsupported.
func (*Namespace) Listening() ([]target.Socket, error) { return nil, ErrUnsupported }

// WatchWithProcesses returns ErrUnsupported and does not call tell.
func (*Namespace) WatchWithProcesses(context.Context, func([]target.Socket)) error {
	return ErrUnsupported
}

// NameProcesses does nothing.
func NameProcesses([]target.Socket, ...ID) {}

// ID returns ErrUnsupported.
func (*Namespace) ID() (ID, error) { return ID{}, ErrUnsupported }
