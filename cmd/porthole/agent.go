package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

const agentLong = `Let a porthole elsewhere reach targets of this host, through the standard streams, or
whatever a pod reaches, through a port-forward to the pod.

"porthole forward --host ssh://HOST" starts it on the other host with --stdio, through
ssh. It opens what the other end asks for, with the permissions of the user who started
it, and ends with its standard input. It listens on nothing but what "porthole reverse"
asks for, and leaves nothing behind.

With --here it opens no targets, but what this program can reach itself. That is how it
runs in the helper containers of "porthole forward docker://NAME", with the standard
streams that the engine attaches.

In pods it is started with --listen, as the entry point of porthole's image, by
"porthole forward" where Kubernetes cannot carry what was asked for. It has no rights
beyond its container's. Everything in the pod can connect to its port, so that only the
end with the key of --client-key gets further, and its own key, made anew at each start,
is the first line that it prints. The traffic is TLS 1.3.`

// agentOptions are the flags of "porthole agent".
type agentOptions struct {
	stdio         bool
	here          bool
	listen        string
	clientKey     string
	container     string
	exitAfter     time.Duration
	denyLinkLocal bool
	idleTime      time.Duration
}

func newAgent() *cobra.Command {
	o := &agentOptions{}
	cmd := &cobra.Command{
		Use:   "agent (--stdio | --listen ADDRESS:PORT --client-key KEY)",
		Short: "Serve targets of this host on the standard streams, or what a pod reaches on a port",
		Long:  agentLong,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keepToOneProcessor()
			switch {
			case o.stdio == (o.listen != ""):
				return usageError{errors.New("agent: want either --stdio or --listen ADDRESS:PORT")}
			case o.stdio:
				return o.serveStdio(cmd.Context())
			}
			return o.serve(cmd)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&o.stdio, "stdio", false, "serve on the standard streams")
	flags.BoolVar(&o.here, "here", false, "with --stdio: open what this program can reach itself, as with --listen, and no targets of the host")
	flags.StringVar(&o.listen, "listen", "", "serve on a loopback address and port, as 127.0.0.1:4711")
	flags.StringVar(&o.clientKey, "client-key", "", "public key of the only client that is let in; required with --listen")
	flags.StringVar(&o.container, "container-id", "", "container whose Unix sockets are reached, in the same process namespace")
	flags.DurationVar(&o.exitAfter, "exit-after", 0, "end so long after the last client has gone, as 60s; with --stdio, after it has fallen silent")
	flags.BoolVar(&o.denyLinkLocal, "deny-link-local", false, "refuse names that lead to link-local addresses, where metadata servers are")
	flags.DurationVar(&o.idleTime, "idle-time", 0, "give memory back when nothing was used for so long; 10m by default")
	_ = flags.MarkHidden("idle-time") // for tests, which cannot wait
	return cmd
}

// serveStdio serves the other end of the standard streams.
func (o *agentOptions) serveStdio(ctx context.Context) error {
	if err := o.check(); err != nil {
		return usageError{err}
	}
	a := &agent.Agent{Version: version(), Silence: o.exitAfter}
	if !o.here {
		containers := &container.Opener{Version: version()}
		defer containers.Close()
		a.Openers = hostOpeners(containers)
		return a.Serve(ctx, agent.Stdio())
	}
	if err := agent.Protect(); err != nil {
		return err
	}
	a.Dialer, a.Bind, a.Listening = o.inside(), forward.Bind, netns.Here().WatchWithProcesses
	return a.Serve(ctx, agent.Stdio())
}

// serve serves on a port. The first line on stdout is for the client, and the only one.
func (o *agentOptions) serve(cmd *cobra.Command) error {
	s, at, err := o.parse()
	if err != nil {
		return usageError{err}
	}
	if err := agent.Protect(); err != nil {
		return err
	}
	if s.Key, err = pinned.NewKey(); err != nil {
		return fmt.Errorf("agent: make a key: %w", err)
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "porthole agent key=%s version=%s\n", s.Key.Public(), version()); err != nil {
		l.Close()
		return fmt.Errorf("agent: tell the key: %w", err)
	}
	s.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	return s.Serve(cmd.Context(), l)
}

// parse checks the flags, and returns a server that lacks only its key, and the address for it to listen on.
func (o *agentOptions) parse() (s *agent.TLSServer, at netip.AddrPort, err error) {
	at, err = netip.ParseAddrPort(o.listen)
	if err != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
		return nil, at, fmt.Errorf("agent: --listen %q: want a loopback address and a port, as 127.0.0.1:4711", o.listen)
	}
	if o.clientKey == "" {
		return nil, at, errors.New("agent: --listen wants --client-key KEY, the public key of the only client that is let in")
	}
	client, err := pinned.ParsePublicKey(o.clientKey)
	if err != nil {
		return nil, at, fmt.Errorf("agent: --client-key: %w", err)
	}
	if err := o.check(); err != nil {
		return nil, at, err
	}
	return &agent.TLSServer{
		Agent:     &agent.Agent{Version: version(), Dialer: o.inside(), Bind: forward.Bind, Listening: netns.Here().WatchWithProcesses},
		Client:    client,
		ExitAfter: o.exitAfter,
		IdleTime:  o.idleTime,
	}, at, nil
}

// check checks the flags that --stdio and --listen share.
func (o *agentOptions) check() error {
	switch {
	case o.container != "" && !container.ValidID(o.container):
		return fmt.Errorf("agent: --container-id %q: want the ID alone, without the runtime's name", o.container)
	case o.exitAfter < 0:
		return fmt.Errorf("agent: --exit-after %v: want 0 or more", o.exitAfter)
	}
	return nil
}

// inside leads to what this program reaches itself.
func (o *agentOptions) inside() *container.Inside {
	here := netns.Here()
	if o.denyLinkLocal {
		here.RefuseNames(container.LinkLocal)
	}
	return &container.Inside{ID: o.container, Namespace: here}
}

// hostOpeners returns what opens the targets that are on a host.
func hostOpeners(containers *container.Opener) map[target.Scheme]route.Opener {
	return map[target.Scheme]route.Opener{
		target.PID: container.Open, target.NetNS: container.Open,
		target.Docker: containers.Open, target.Podman: containers.Open, target.Containerd: containers.Open, target.CRI: containers.Open,
	}
}
