package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/target"
)

// drain is how long live connections may go on after Ctrl-C.
const drain = 2 * time.Second

func newForward() *cobra.Command {
	f := &forwarding{addresses: []string{target.Localhost}}
	cmd := &cobra.Command{
		Use:     "forward TARGET [[ADDRESS:]LOCAL:]REMOTE ...",
		Aliases: []string{"port-forward"},
		Short:   "Make ports of a target reachable at local addresses",
		Long: `Make ports of a target reachable at local addresses, until interrupted.

TARGET is one of
  pid://4947               the network namespace of a process
  netns://blue             a namespace that "ip netns" named
  netns:///run/netns/blue  a namespace by the path that it is bound to

Connections reach what listens on 127.0.0.1 or ::1 inside the namespace.
Entering a namespace takes root, or CAP_SYS_ADMIN over it.`,
		Example: `  porthole forward pid://4947 8080             # localhost:8080 to port 8080
  porthole forward pid://4947 8080:80 5432     # two ports at once
  porthole forward netns://blue :80            # any free local port
  porthole forward netns://blue 0.0.0.0:80:80  # on all IPv4 addresses`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{errors.New("forward: want a target and at least one port")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parse(args); err != nil {
				return usageError{err}
			}
			return f.run(cmd)
		},
	}
	cmd.Flags().StringSliceVar(&f.addresses, "address", f.addresses,
		"address to listen on, an IP address or localhost; may be repeated or separated by commas")
	return cmd
}

// forwarding is one `porthole forward`.
type forwarding struct {
	addresses []string
	target    target.Target
	ports     []target.Port
}

func (f *forwarding) parse(args []string) (err error) {
	if f.target, err = target.Parse(args[0]); err != nil {
		return err
	}
	for _, arg := range args[1:] {
		p, err := target.ParsePort(arg)
		if err != nil {
			return err
		}
		f.ports = append(f.ports, p)
	}
	for i, a := range f.addresses {
		if f.addresses[i], err = target.ParseAddress(a); err != nil {
			return err
		}
	}
	return nil
}

func (f *forwarding) run(cmd *cobra.Command) error {
	ns, err := container.Open(f.target)
	if err != nil {
		return err
	}
	defer ns.Close()
	listeners, err := forward.Listen(cmd.Context(), f.addresses, f.ports)
	if errors.Is(err, forward.ErrTwice) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	return serve(cmd, ns, f.target.String(), listeners)
}

// serve carries connections into ns until the command is interrupted, which is
// no error, or the namespace's process is gone, which is one.
func serve(cmd *cobra.Command, ns *netns.Namespace, name string, listeners []*forward.Listener) error {
	tell := newTeller(cmd.OutOrStdout(), cmd.ErrOrStderr(), name)
	defer tell.close()
	for _, l := range listeners {
		tell.listening(l)
	}
	ctx, stop := context.WithCancelCause(cmd.Context())
	var watch sync.WaitGroup
	watch.Go(func() { stop(ns.Wait(ctx)) })
	defer watch.Wait()
	defer stop(nil)

	session := forward.Session{Dialer: ns, Events: tell.event, Drain: drain}
	if err := session.Run(ctx, listeners); err != nil {
		return err
	}
	if cmd.Context().Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, context.Cause(ctx))
}
