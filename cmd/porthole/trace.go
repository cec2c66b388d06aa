package main

import "github.com/spf13/cobra"

const traceLong = `Show what happens on this host, while it happens and until interrupted:
exec the programs that are executed, in all containers; forward the connections
that "porthole node" carries into pods.`

// newTrace only holds its subcommands.
func newTrace() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "Show the programs that are executed on this host, or the connections into its pods",
		Long:  traceLong,

		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTraceExec(), newTraceForward())
	return cmd
}
