package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"porthole.dev/porthole/internal/cri"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pipe"
)

// unixSockets connects to Unix sockets of pods: inside a container's own root, as the
// container's user, and on nothing that was mounted from outside.
type unixSockets struct {
	sandboxes *sandboxes
	forbidden []netns.ID // are not entered
}

// dial connects to the socket at a path, in the first of the pod's containers that has
// something there.
func (u *unixSockets) dial(ctx context.Context, s *sandbox, path string) (pipe.Conn, error) {
	containers, err := cri.RunningContainers(ctx, u.sandboxes.cri, s.id)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		conn, err := u.dialIn(ctx, s, c.GetId(), path)
		if !isMissing(err) {
			return conn, err
		}
	}
	if s.netns.gone() {
		return nil, markGone(netns.ErrExited)
	}
	return nil, fmt.Errorf("no running container of the pod has a socket there: %w", syscall.ENOENT)
}

// isMissing says whether another container may have what was not found in one.
func isMissing(err error) bool {
	if status.Code(err) == codes.NotFound {
		return true // it was removed
	}
	for _, sign := range []error{os.ErrNotExist, syscall.ENOTDIR, netns.ErrNoProcess, netns.ErrExited} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

// dialIn connects to the socket at a path of one container.
func (u *unixSockets) dialIn(ctx context.Context, s *sandbox, id, path string) (pipe.Conn, error) {
	c, ns, err := u.sandboxes.enter(ctx, id)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := u.checkNetwork(ns); err != nil {
		return nil, err
	}
	socket, err := ns.OpenUnix(path)
	if err != nil {
		return nil, unitError(err)
	}
	defer socket.Close()
	if err := u.checkMount(s, c, ns, socket); err != nil {
		return nil, err
	}
	conn, err := socket.Dial(ctx)
	if err != nil {
		return nil, unitError(err)
	}
	return conn, nil
}

// checkNetwork refuses pods on the node's network, if the policy does.
func (u *unixSockets) checkNetwork(ns *netns.Namespace) error {
	if len(u.forbidden) == 0 {
		return nil
	}
	ns.Forbid(u.forbidden...)
	return entryError(ns.Check())
}

// checkMount refuses a socket that is not the pod's own.
func (u *unixSockets) checkMount(s *sandbox, c *container, ns *netns.Namespace, socket *netns.UnixSocket) error {
	mount, err := socket.Mount()
	if errors.Is(err, netns.ErrMount) {
		return deniedError(fmt.Sprintf("%v, so that it may be another's", err))
	}
	if err != nil {
		return err
	}
	switch own := c.owns(mount, s.uid); {
	case !own && mount.Point == "/":
		return deniedError("the container's process has changed its root, which may be another's")
	case !own:
		return deniedError(fmt.Sprintf("the socket lies on what is mounted at %s from outside of the container", mount.Point))
	}
	// In a user namespace of its own a process may make any mount its root that it has.
	pod, err := s.userNamespace()
	if err != nil {
		return err
	}
	switch user, err := ns.UserNamespace(); {
	case err != nil:
		return err
	case user != pod:
		return deniedError("the container's process is in a user namespace that is not the pod's, so that its root may be another's")
	}
	return nil
}

// userNamespace is that of the sandbox's own process, or this process' if there is none.
func (s *sandbox) userNamespace() (netns.ID, error) {
	if s.netns.pid == 0 {
		return netns.IDOf("/proc/thread-self/ns/user")
	}
	ns, err := s.netns.openProcess()
	if err != nil {
		return netns.ID{}, err
	}
	defer ns.Close()
	user, err := ns.UserNamespace()
	return user, markGone(err)
}

// unitError says what to do where this process may not become the container's user.
func unitError(err error) error {
	if errors.Is(err, netns.ErrUser) {
		return fmt.Errorf("%w: porthole node lacks CAP_SETUID or CAP_SETGID, which its unit has with porthole.service.d/unix.conf", err)
	}
	return err
}

// maxUnixDials is how many connections of one tunnel may be on their way to Unix sockets at
// once. A full queue is tried again and again.
const maxUnixDials = 8

// dialUnix connects to a Unix socket of the sandbox, as far as the policy allows it.
func (d *sandboxDialer) dialUnix(ctx context.Context, path string) (pipe.Conn, error) {
	path, err := d.policy.checkUnix(d.sandbox.hostNetwork, path)
	if err != nil {
		return nil, err
	}
	select {
	case d.dials <- struct{}{}:
		defer func() { <-d.dials }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return d.unix.dial(ctx, d.sandbox, path)
}
