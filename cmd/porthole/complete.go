package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/target"
)

const noFiles = cobra.ShellCompDirectiveNoFileComp

// addCompletion adds cobra's command for completion, which refuses shells that it does not know, and for bash works without
// another package.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.SuggestionsMinimumDistance = 2
		completion.Args = noArgs
		completion.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	withoutBashCompletion(root)
}

// complete offers live targets for the first argument and, unless they are to be listened at, their
// ports for the others. What takes longer than two seconds to find out is left out.
func (f *forwarding) complete(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	scheme, isEngine := engineOf(prefix)
	switch {
	case f.file != "" || len(args) > 0 && (f.reverse || f.all):
		return nil, noFiles
	case len(args) > 0 && strings.Contains(args[0], "://"):
		return f.completeListening(cmd.Context(), args[0], prefix)
	case len(args) == 0 && isEngine:
		return f.completeContainers(cmd.Context(), scheme, prefix)
	case len(args) == 0 && (strings.HasPrefix(prefix, "netns://") || strings.HasPrefix(prefix, "pid://")):
		return f.completeHere(prefix)
	}
	cluster, err := f.clusterNow(cmd)
	if err != nil {
		return schemes(nil, prefix)
	}
	defer cluster.Close()
	if len(args) == 0 {
		return schemes(cluster.CompleteTargets(cmd.Context(), "", prefix), prefix)
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

// clusterNow opens the cluster that the flags typed so far select.
func (f *forwarding) clusterNow(cmd *cobra.Command) (*kube.Cluster, error) {
	if err := f.prefer(cmd.Flags(), io.Discard); err != nil {
		return nil, err
	}
	return kube.Open(f.config)
}

// schemes adds the schemes of this host's targets to the names of a cluster's.
func schemes(names []string, prefix string) ([]string, cobra.ShellCompDirective) {
	for _, scheme := range []string{"containerd://", "cri://", "docker://", "host://", "netns://", "pid://", "podman://"} {
		if strings.HasPrefix(scheme, prefix) && prefix != "" {
			names = append(names, scheme)
		}
	}
	if len(names) == 1 && strings.HasSuffix(names[0], "/") {
		return names, noFiles | cobra.ShellCompDirectiveNoSpace
	}
	return names, noFiles
}

// completeHere offers the namespaces of this host that have names, and the processes whose network
// namespace is not this program's own.
func (f *forwarding) completeHere(prefix string) ([]string, cobra.ShellCompDirective) {
	if f.host != "" {
		return nil, noFiles
	}
	if part, ok := strings.CutPrefix(prefix, "netns://"); ok {
		if strings.HasPrefix(part, "/") {
			return pathsBelow(part)
		}
		return beginning("netns://", fileNames("/run/netns"), part), noFiles
	}
	var pids []string
	own, _ := os.Readlink("/proc/self/ns/net")
	for _, name := range fileNames("/proc") {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		net, err := os.Readlink("/proc/" + name + "/ns/net")
		command, _ := os.ReadFile("/proc/" + name + "/comm")
		if err == nil && net != own {
			pids = append(pids, name+"\t"+strings.TrimSpace(string(command)))
		}
	}
	return beginning("pid://", pids, strings.TrimPrefix(prefix, "pid://")), noFiles
}

// pathsBelow offers the files that complete a path.
func pathsBelow(part string) (paths []string, directive cobra.ShellCompDirective) {
	folder, name := filepath.Split(part)
	for _, entry := range beginning("netns://"+folder, fileNames(folder), name) {
		if info, err := os.Stat(strings.TrimPrefix(entry, "netns://")); err == nil && info.IsDir() {
			entry += "/"
		}
		paths = append(paths, entry)
	}
	return paths, noFiles | cobra.ShellCompDirectiveNoSpace
}

func fileNames(folder string) (names []string) {
	entries, _ := os.ReadDir(folder)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// beginning returns those of names, each with its description behind a tab, that complete a prefix.
func beginning(before string, names []string, prefix string) (all []string) {
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && isPlain(name) {
			all = append(all, before+name)
		}
	}
	return all
}

// isPlain reports whether a shell takes a completion for no more than a word. Some shells put the beginning of several
// completions into the command line as it is, and whoever runs in a container chooses the paths of its sockets.
func isPlain(completion string) bool {
	word, _, _ := strings.Cut(completion, "\t")
	return word == safetext.Quote(word)
}

// completeFlags offers the values of the flags that the command has.
func (f *forwarding) completeFlags(cmd *cobra.Command) {
	for flag, complete := range f.flagValues(cmd.Name()) {
		if cmd.Flags().Lookup(flag) == nil {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // the flag is registered twice
		}
	}
	for _, flag := range []string{"file", "agent-patch", "relay-patch"} {
		_ = cmd.MarkFlagFilename(flag, "yaml", "yml", "json")
	}
}

// flagValues offer the values of flags for a command.
func (f *forwarding) flagValues(command string) map[string]cobra.CompletionFunc {
	named := func(names func() []string) cobra.CompletionFunc {
		return func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return beginning("", names(), prefix), noFiles
		}
	}
	fixed := func(words ...string) cobra.CompletionFunc { return named(func() []string { return words }) }
	vias := target.Vias()
	if f.reverse {
		vias = target.ReverseVias()
	}
	outputs := []string{"text", "json"}
	if command == "targets" {
		outputs = []string{"wide", "json"}
	}
	return map[string]cobra.CompletionFunc{
		"context":                 named(func() []string { contexts, _, _ := f.config.Names(); return contexts }),
		"cluster":                 named(func() []string { _, clusters, _ := f.config.Names(); return clusters }),
		"user":                    named(func() []string { _, _, users := f.config.Names(); return users }),
		"namespace":               f.completeNamespaces,
		"output":                  fixed(outputs...),
		"each":                    fixed(string(target.EachPorts), string(target.EachAddresses)),
		"via":                     completeVias(vias),
		"engine-context":          completeEngineContexts,
		"agent-image-pull-policy": fixed(pullPolicies...),
		"profile":                 fixed("none", "cpu", "heap", "goroutine", "threadcreate", "block", "mutex", "trace"),
		"address":                 named(localAddresses),
		"listen":                  fixed(target.Localhost, "0.0.0.0", "::"),
	}
}

// completeVias offers the values of --via, those for containers after such a target.
func completeVias(inCluster []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			if to, err := target.Parse(args[0]); err == nil && to.Scheme.InEngine() {
				return target.EngineVias(), noFiles
			}
		}
		return inCluster, noFiles
	}
}

func (f *forwarding) completeNamespaces(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	cluster, err := f.clusterNow(cmd)
	if err != nil {
		return nil, noFiles
	}
	defer cluster.Close()
	return cluster.CompleteNamespaces(cmd.Context(), prefix), noFiles
}

// localAddresses are the addresses that can be listened on.
func localAddresses() []string {
	names := []string{target.Localhost, "0.0.0.0", "::"}
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if prefix, ok := a.(*net.IPNet); ok && !prefix.IP.IsLinkLocalUnicast() {
			names = append(names, prefix.IP.String())
		}
	}
	return names
}
