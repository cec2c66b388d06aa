package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// completeTime is how long a shell waits for what an engine, or a target of this host, tells.
const completeTime = time.Second

// engineOf returns the scheme of an engine that a target begins with.
func engineOf(prefix string) (target.Scheme, bool) {
	scheme, _, ok := strings.Cut(prefix, "://")
	return target.Scheme(scheme), ok && target.Scheme(scheme).InEngine()
}

// completeContainers offers the containers of an engine of this host that run, with their images, and the services of Compose that
// they belong to.
func (f *forwarding) completeContainers(ctx context.Context, scheme target.Scheme, prefix string) ([]string, cobra.ShellCompDirective) {
	if f.host != "" {
		return nil, noFiles
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	containers := &container.Opener{}
	defer containers.Close()
	listed, _ := containers.ListOf(ctx, scheme, f.engineContext)
	about := map[string]string{}
	for _, l := range listed {
		if l.State != container.Running {
			continue
		}
		about[l.Target.String()] = l.Image
		if l.Service != (target.Target{}) {
			about[l.Service.String()] = "service of Compose"
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(about)) {
		names = append(names, strings.TrimSuffix(name+"\t"+about[name], "\t"))
	}
	return beginning("", names, prefix), noFiles
}

// completeEngineContexts offers docker's contexts and podman's connections, those of the target's engine after one.
func completeEngineContexts(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, scheme := range []target.Scheme{target.Docker, target.Podman} {
		if len(args) == 0 || strings.HasPrefix(args[0], string(scheme)+"://") {
			names = append(names, container.Contexts(scheme)...)
		}
	}
	return beginning("", names, prefix), noFiles
}

// completeListening offers the ports that listen at a target of this host, each with the process that has it.
func (f *forwarding) completeListening(ctx context.Context, name, prefix string) ([]string, cobra.ShellCompDirective) {
	to, err := target.Parse(name)
	if err != nil || to.Scheme.InCluster() || f.host != "" {
		return nil, noFiles
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	containers := &container.Opener{}
	defer containers.Close()
	// No helper container is started for a shell: that takes longer, and leaves something behind if it is cut short.
	forward := target.Forward{Target: to, EngineContext: f.engineContext, Via: target.ViaNative}
	opened, err := hostOpeners(containers)[to.Scheme](ctx, forward, func(route.Event) {})
	if err != nil {
		return nil, noFiles
	}
	defer opened.Close()
	sockets, _ := opened.Listening.First(ctx)
	// LOCAL:REMOTE: only the remote port can be known. What is no port on its own takes a LOCAL.
	local, _, pair := strings.Cut(prefix, ":")
	before := ""
	if pair {
		before = local + ":"
	}
	var ports []string
	for _, s := range sockets {
		port := before + s.Address().String()
		if !pair && (s.Network == target.Unix || s.Address().Host != "") {
			port = ":" + s.Address().String()
		}
		if s.Command != "" {
			port += fmt.Sprintf("\t%s (%s)", strings.ReplaceAll(strconv.Quote(s.Command), `"`, ""), strconv.Itoa(s.PID))
		}
		if strings.HasPrefix(port, prefix) && isPlain(port) && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports, noFiles
}
