package main

import (
	"strings"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

// complete offers live targets for the first argument and their ports for the
// others. What cannot be found out in two seconds is left out.
func (f *forwarding) complete(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	const noFiles = cobra.ShellCompDirectiveNoFileComp
	if strings.Contains(prefix, "://") || len(args) > 0 && strings.Contains(args[0], "://") {
		return nil, noFiles
	}
	cluster, err := kube.Open(f.config)
	if err != nil {
		return nil, noFiles
	}
	defer cluster.Close()
	if len(args) == 0 {
		directive := noFiles
		names := cluster.CompleteTargets(cmd.Context(), "", prefix)
		if len(names) == 1 && strings.HasSuffix(names[0], "/") {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return names, directive
	}
	t, err := target.Parse(args[0])
	if err != nil {
		return nil, noFiles
	}
	// LOCAL:REMOTE: only the remote port can be known.
	local, remote, pair := strings.Cut(prefix, ":")
	if !pair {
		return cluster.CompletePorts(cmd.Context(), "", t, prefix), noFiles
	}
	ports := cluster.CompletePorts(cmd.Context(), "", t, remote)
	for i := range ports {
		ports[i] = local + ":" + ports[i]
	}
	return ports, noFiles
}
