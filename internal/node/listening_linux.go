package node

import (
	"context"

	"porthole.dev/porthole/internal/target"
)

// listening tells what listens in the sandbox, as far as a Dial of this client would reach it by the policy: no more
// than where it is, since whose it is on the node is not the client's to know.
func (d *sandboxDialer) listening(ctx context.Context, tell func([]target.Socket)) error {
	if d.sandbox.hostNetwork && d.policy.DenyHostNetwork {
		return errHostNetwork
	}
	ns, err := d.sandbox.netns.open(d.unix.forbidden)
	if err != nil {
		return err
	}
	defer ns.Close()
	err = ns.WatchListening(ctx, func(all []target.Socket) {
		reached := []target.Socket{}
		for _, s := range all {
			if d.reaches(s) {
				reached = append(reached, target.Socket{Endpoint: s.Endpoint})
			}
		}
		tell(reached)
	})
	return entryError(err)
}

// reaches reports whether a Dial to a socket is allowed.
func (d *sandboxDialer) reaches(s target.Socket) bool {
	to := s.Address()
	if to.Network == target.Unix {
		_, err := d.policy.checkUnix(d.sandbox.hostNetwork, to.Path)
		return err == nil
	}
	return to.Host == "" && d.policy.check(d.sandbox.hostNetwork, to.Port) == nil
}
