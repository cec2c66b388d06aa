package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
)

// openers returns what opens the targets of each scheme, and what tells their members. A new
// kind of target is entered here, or in hostOpeners. Call end after the last route.
func (f *forwarding) openers() (openers map[target.Scheme]route.Opener, expanders map[target.Scheme]route.Expander, end func()) {
	clusters := &kube.Opener{
		Config: f.config, MaxWait: f.wait, PodRunningTimeout: f.podRunning,
		MaxTunnels: f.maxTunnels, Silence: cmp.Or(f.silence, -1), Agents: f.agent.agents(),
	}
	hosts := &ssh.Opener{Version: version(), RemoteCommand: f.remoteCommand, Silence: cmp.Or(f.silence, -1)}
	containers := &container.Opener{Version: version(), AgentBinary: f.agentBinary, MaxWait: f.wait, Silence: cmp.Or(f.silence, -1)}
	openers = hostOpeners(containers)
	for scheme, here := range openers {
		openers[scheme] = byHost(here, onOneProcessor(hosts.Open))
	}
	openers[target.Kubernetes] = onOneProcessor(withKubectlErrors(clusters.Open))
	openers[target.RemoteHost] = onOneProcessor(clusters.Open)
	expanders = map[target.Scheme]route.Expander{target.Kubernetes: eachWithKubectlErrors(clusters.Expand)}
	return openers, expanders, func() { clusters.Close(); hosts.Close(); containers.Close() }
}

// byHost opens targets of this host by one opener, and those of other hosts by another.
func byHost(here, elsewhere route.Opener) route.Opener {
	return func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		if f.Host == (target.Host{}) {
			return here(ctx, f, events)
		}
		return elsewhere(ctx, f, events)
	}
}

// withKubectlErrors puts kubectl's own text before some errors, because scripts look for it.
func withKubectlErrors(open route.Opener) route.Opener {
	return func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		opened, err := open(ctx, f, events)
		return opened, withKubectlText(err)
	}
}

func withKubectlText(err error) error {
	var status *portforward.StatusError
	var forbidden *kube.ForbiddenError
	switch {
	case errors.As(err, &status), errors.As(err, &forbidden) && forbidden.Resource == "pods/portforward":
		return fmt.Errorf("error upgrading connection: %w", err)
	case errors.Is(err, kube.ErrNotReady):
		return fmt.Errorf("unable to forward: %w", err)
	}
	return err
}

// eachWithKubectlErrors is withKubectlErrors and onOneProcessor for the members of targets.
func eachWithKubectlErrors(expand route.Expander) route.Expander {
	return func(ctx context.Context, f target.Forward, events func(route.Event), tell func([]route.Member)) error {
		keepToOneProcessor()
		return withKubectlText(expand(ctx, f, events, func(all []route.Member) {
			for i := range all {
				all[i].Open = withKubectlErrors(all[i].Open)
			}
			tell(all)
		}))
	}
}

// onOneProcessor calls keepToOneProcessor before the first route is opened.
func onOneProcessor(open route.Opener) route.Opener {
	return func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		keepToOneProcessor()
		return open(ctx, f, events)
	}
}

// keepToOneProcessor makes this process use one processor, unless GOMAXPROCS in the
// environment says otherwise. It is for both ends of tunnels, whose throughput the API
// server and the kubelet limit. With more processors the goroutines of a tunnel and of its
// connections would wake each other up across them for every piece of data, which costs
// more than handling the piece; docs/performance.md has the figures.
func keepToOneProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}
