package main

import (
	"errors"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/agent"
	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

const agentLong = `Serve targets of this host to a porthole at the other end of the standard streams.

"porthole forward --host ssh://HOST" starts it on the other host, through ssh. It
opens what the other end asks for, with the permissions of the user who started it,
and ends with its standard input. It listens on nothing and leaves nothing behind.`

func newAgent() *cobra.Command {
	var stdio bool
	cmd := &cobra.Command{
		Use:   "agent --stdio",
		Short: "Serve targets of this host on the standard streams",
		Long:  agentLong,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !stdio {
				return usageError{errors.New("agent: want --stdio")}
			}
			keepToOneProcessor()
			a := &agent.Agent{Version: version(), Openers: hostOpeners()}
			return a.Serve(cmd.Context(), agent.Stdio())
		},
	}
	cmd.Flags().BoolVar(&stdio, "stdio", false, "serve on the standard streams; required")
	return cmd
}

// hostOpeners returns what opens the targets that are on a host.
func hostOpeners() map[target.Scheme]route.Opener {
	return map[target.Scheme]route.Opener{target.PID: container.Open, target.NetNS: container.Open}
}
