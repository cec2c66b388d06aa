package main

import (
	"context"
	"fmt"
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

// completeContainers offers the containers of an engine that run, with their images.
func completeContainers(ctx context.Context, scheme target.Scheme, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	containers := &container.Opener{}
	defer containers.Close()
	listed, _ := containers.ListOf(ctx, scheme)
	var names []string
	for _, l := range listed {
		if l.State != container.Running {
			continue
		}
		name := l.Target.String()
		if l.Image != "" {
			name += "\t" + l.Image
		}
		names = append(names, name)
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
