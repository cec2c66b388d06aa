package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/target"
)

func newForward() *cobra.Command {
	f := &forwarding{addresses: []string{target.Localhost}, output: "text"}
	cmd := &cobra.Command{
		Use:     "forward TARGET [[ADDRESS:]LOCAL:]REMOTE ... [-- COMMAND ARGS ...]",
		Aliases: []string{"port-forward"},
		Short:   "Make ports of a target reachable at local addresses",
		Long: `Make ports of a target reachable at local addresses, until interrupted.

TARGET is one of
  pid://4947               the network namespace of a process
  netns://blue             a namespace that "ip netns" named
  netns:///run/netns/blue  a namespace by the path that it is bound to

Connections reach what listens on 127.0.0.1 or ::1 inside the namespace.
Entering a namespace takes root, or CAP_SYS_ADMIN over it.

With a COMMAND, it is started once the target can be reached, with the address
in PORTHOLE_ADDR (host:port) and PORTHOLE_PORT; each remote port, 5432 say, also
has PORTHOLE_ADDR_5432 and PORTHOLE_PORT_5432. Signals are passed to it, and the
session ends with it, with its exit status. stdout is then the command's alone.`,
		Example: `  porthole forward pid://4947 8080             # localhost:8080 to port 8080
  porthole forward pid://4947 8080:80 5432     # two ports at once
  porthole forward netns://blue :80            # any free local port
  porthole forward netns://blue 0.0.0.0:80:80  # on all IPv4 addresses
  porthole forward pid://4947 :5432 -- sh -c 'psql -h localhost -p $PORTHOLE_PORT'`,
		Args: func(*cobra.Command, []string) error { return nil }, // parse knows better
		RunE: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				args, f.command = args[:dash], args[dash:]
			}
			if err := f.parse(args); err != nil {
				return usageError{err}
			}
			return f.run(cmd)
		},
	}
	f.flags(cmd)
	return cmd
}

// forwarding is one `porthole forward`.
type forwarding struct {
	addresses []string
	readyFile string
	output    string
	quiet     bool
	verbose   bool

	target  target.Target
	ports   []target.Port
	command []string // what to run meanwhile; nil for nothing
}

func (f *forwarding) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.addresses, "address", f.addresses,
		"address to listen on, an IP address or localhost; may be repeated or separated by commas")
	flags.StringVar(&f.readyFile, "ready-file", "",
		"file to write once the target can be reached, a line ADDRESS:PORT REMOTE for each listener; removed at the end")
	flags.StringVarP(&f.output, "output", "o", f.output, "text, or json for one event a line")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print errors only")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "tell of the end of each connection too")
}

func (f *forwarding) parse(args []string) (err error) {
	if len(args) < 2 {
		return errors.New("forward: want a target and at least one port")
	}
	if f.command != nil && len(f.command) == 0 {
		return errors.New("forward: want a command after --")
	}
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("forward: unknown output %q, want text or json", f.output)
	}
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

// teller is how this forwarding tells what happens.
func (f *forwarding) teller(cmd *cobra.Command) *teller {
	out, errs := cmd.OutOrStdout(), cmd.ErrOrStderr()
	if f.command != nil {
		out = errs
	}
	if f.quiet && f.output == "text" {
		out = io.Discard
	}
	if f.output == "json" {
		return newTeller(out, errs, jsonStyle{})
	}
	return newTeller(out, errs, textStyle{verbose: f.verbose})
}
