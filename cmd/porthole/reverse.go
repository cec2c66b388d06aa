package main

import (
	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/target"
)

const reverseLong = `Make ports of this machine reachable inside a target, until interrupted: whoever
connects to 127.0.0.1 or ::1 at port REMOTE there arrives at LOCAL here.

TARGET is one of
  kuard, pod/kuard         a pod of a Kubernetes cluster, by the kubeconfig
  svc/web, deploy/web, ... one of its pods, and another when that is replaced
  pid://4947               the network namespace of a process of this host
  netns://blue             a namespace of this host that "ip netns" named
With --host ssh://HOST the last two are on that host, which needs porthole too.

REMOTE is what is listened on there, and LOCAL what that leads to here:
  8080                     port 8080 at both ends
  8080:3000                port 3000 of 127.0.0.1 or ::1 here
  8080:db:5432             a port of a host that this machine reaches
  5432:./x.sock            a Unix socket here
  5353:53/udp              UDP
A pod needs a node that runs "porthole node --allow-reverse=loopback", or an agent.

The listener is the session's: it goes when that ends, also when porthole is
killed, and comes back after a loss and when the pod is replaced. What connects
meanwhile is refused. Flags, COMMAND and exit status are those of "porthole forward".`

const reverseExample = `  porthole reverse deploy/web 9000:9003            # a debugger here, for a program in the pod
  porthole reverse pid://4947 5432:db.internal:5432
  porthole reverse netns://blue 8080 5353:53/udp
  porthole reverse --listen 0.0.0.0 netns://blue 80:8080
  porthole reverse --host ssh://box pid://4947 8080:3000`

func newReverse() *cobra.Command {
	f := &forwarding{
		addresses: []string{target.Localhost}, output: "text", readyWhen: readyAll, reverse: true,
		config: &kube.Config{Retries: new(kube.RetryLimiter)},
	}
	cmd := &cobra.Command{
		Use:               "reverse TARGET REMOTE[:LOCAL] ... [-- COMMAND ARGS ...]",
		Short:             "Make ports of this machine reachable inside a target",
		Long:              reverseLong,
		Example:           reverseExample,
		Args:              func(*cobra.Command, []string) error { return nil }, // parse checks them, with better messages
		RunE:              f.runE,
		ValidArgsFunction: f.complete,
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&f.addresses, "listen", f.addresses,
		"address to listen on there, an IP address or localhost, such as 0.0.0.0 for all; may be repeated or separated by commas")
	flags.StringVar(&f.readyFile, "ready-file", "",
		"file to write once the target listens, a line ADDRESS:PORT LOCAL for each listener; removed at the end")
	flags.StringVar(&f.via, "via", target.ViaAuto.String(), "what listens in pods: "+oneOf(target.ReverseVias())+"; in containers: "+oneOf(target.EngineVias()))
	f.sharedFlags(flags)
	f.completeFlags(cmd)
	return cmd
}
