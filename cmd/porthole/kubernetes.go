package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/target"
)

// clusters opens the routes to targets of Kubernetes, as the flags say.
func (f *forwarding) clusters() *kube.Opener {
	return &kube.Opener{
		Config: f.config, MaxWait: f.wait, PodRunningTimeout: f.podRunning,
		MaxTunnels: f.maxTunnels, Silence: cmp.Or(f.silence, -1),
	}
}

// openKubernetes opens routes as clusters does, and puts the words before an error that
// scripts written for kubectl look for.
func openKubernetes(clusters *kube.Opener) route.Opener {
	return func(ctx context.Context, f target.Forward, events func(route.Event)) (*route.Result, error) {
		keepToOneProcessor()
		opened, err := clusters.Open(ctx, f, events)
		var status *portforward.StatusError
		var forbidden *kube.ForbiddenError
		switch {
		case errors.As(err, &status), errors.As(err, &forbidden) && forbidden.Resource == "pods/portforward":
			err = fmt.Errorf("error upgrading connection: %w", err)
		case errors.Is(err, kube.ErrNotReady):
			err = fmt.Errorf("unable to forward: %w", err)
		}
		return opened, err
	}
}

// keepToOneProcessor is for both ends of tunnels, where API server and kubelet bound
// what can come. With more processors the goroutines of a tunnel, of its connections
// and of a call to the runtime wake each other up across them for every piece, which
// takes more than the pieces do; docs/performance.md has the figures. GOMAXPROCS in the
// environment wins.
func keepToOneProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}
