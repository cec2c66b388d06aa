package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/manifest"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/target"
)

const forwardLong = `Make ports of a target reachable at local addresses, until interrupted.

TARGET is one of
  kuard, pod/kuard         a pod of a Kubernetes cluster, by the kubeconfig
  svc/web                  a service: its ready pods, by its ports
  deploy/web, sts/, ds/,   a workload, or anything else that has pods by a
  rs/, job/                selector or a scale
  host://db.internal       a host that the cluster reaches, by a name or an address
  docker://web, podman://  a container of an engine, by its name or ID
  docker://shop/web        a Compose project's service: its containers in turn
  containerd://k8s.io/ID   a container of containerd, by its ID or nerdctl's name
  cri://POD, cri://NS/POD  a pod of this node, by its container runtime
  pid://4947               the network namespace of a process of this host
  netns://blue             a namespace of this host that "ip netns" named
  netns:///run/netns/blue  a namespace by the path that it is bound to
With --host ssh://HOST, containers, processes and namespaces are those of that host,
which needs porthole too.
Hosts, and services that lead to no pods, are reached through a relay, a pod that
porthole starts for them and that ends by itself (docs/relays.md).

A port is [[ADDRESS:]LOCAL:]REMOTE, where LOCAL and REMOTE are
  8080, 8000-8010          a port, or a range of them
  53/udp                   a UDP port (REMOTE only); /tcp may be written as well
  http                     a port by its name (REMOTE, of Kubernetes)
  /run/x.sock, ./x.sock    a Unix socket: at the target (REMOTE), or here (LOCAL)
  db:5432                  a port of a host that the target reaches (REMOTE)
Kubernetes forwards TCP ports of pods. All else goes through "porthole node" on the
pod's node, or through an agent, an ephemeral container that is started in the pod
and stays there: --via decides, and docs/agents.md says what that takes.

With --all in place of ports, every TCP port that listens at the target, now or later,
gets a local port: the same number, or the next free one. It is closed when the target's
port no longer listens (docs/ports.md).

Connections reach what listens on 127.0.0.1 or ::1 inside. The session goes on
when the pod or container is replaced, the API server restarts or the network is
away: a connection made meanwhile waits, up to --wait. Gone for good is only a
process that exits, or a container named by its ID that is removed. Entering a
namespace takes root, unless it is your own, as those of engines without root are
(docs/permissions.md); what Kubernetes has to permit is in docs/kubernetes.md.

With a COMMAND, it is started once the target can be reached, with the address
in PORTHOLE_ADDR (host:port) and PORTHOLE_PORT; each remote port, 5432 say, also
has PORTHOLE_ADDR_5432 and PORTHOLE_PORT_5432 (PORTHOLE_ADDR_53_UDP for UDP).
Signals are passed to it, and the session ends with it, with its exit status.
stdout is then the command's alone.

SIGINT (Ctrl-C), SIGTERM, SIGQUIT and SIGHUP end the session, with exit status 0:
connections that are in use get 2 seconds to finish, idle ones are closed. A
second signal closes all. The exit status is 1 after a failure, or when the target
is gone for good (with a file: all of them), and 2 for what was typed wrong.`

const forwardExample = `  porthole forward kuard 8080                  # localhost:8080 to port 8080 of a pod
  porthole forward svc/web 8080:http           # a service's port by its name
  porthole forward deploy/web :80              # any free local port
  porthole forward host://db.internal 5432     # a host that only the cluster reaches
  porthole forward --each sts/db 5432          # db-0 at 5432, db-1 at 5433, ...
  porthole forward pid://4947 8080:80 5432     # two ports of a process' namespace
  porthole forward netns://blue 0.0.0.0:80:80  # on all IPv4 addresses
  porthole forward netns://blue 5353:53/udp    # a UDP port
  porthole forward pid://4947 :/run/x.sock     # a Unix socket, at a free local port
  porthole forward kuard 5353:53/udp           # by an agent, if the node has no porthole
  porthole forward --container db pod/shop :/run/x.sock
  porthole forward pid://4947 --all --except 22  # whatever listens, now or later
  porthole forward --host ssh://box pid://4947 8080
  porthole forward svc/db :5432 -- sh -c 'psql -h localhost -p $PORTHOLE_PORT'
  porthole forward -f forwards.yaml            # many targets at once`

func newForward() *cobra.Command {
	f := &forwarding{addresses: []string{target.Localhost}, output: "text", config: &kube.Config{Retries: new(kube.RetryLimiter)}}
	cmd := &cobra.Command{
		Use:               "forward TARGET [[ADDRESS:]LOCAL:]REMOTE ... [-- COMMAND ARGS ...]",
		Aliases:           []string{"port-forward"},
		Short:             "Make ports of a target reachable at local addresses",
		Long:              forwardLong,
		Example:           forwardExample,
		Args:              func(*cobra.Command, []string) error { return nil }, // parse checks them, with better messages
		RunE:              f.runE,
		ValidArgsFunction: f.complete,
	}
	f.flags(cmd)
	f.completeFlags(cmd)
	return cmd
}

// runE is cobra's.
func (f *forwarding) runE(cmd *cobra.Command, args []string) error {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		args, f.command = args[:dash], args[dash:]
	}
	if err := f.onlyWithTarget(cmd.Flags()); err != nil {
		return err
	}
	f.cmd, f.typed, f.given = cmd, os.Args[1:], givenFlags(cmd.Flags())
	if err := f.prefer(cmd.Flags(), cmd.ErrOrStderr()); err != nil {
		return err
	}
	if err := f.parse(args); err != nil {
		return usageError{err}
	}
	return f.kubectl.around(cmd.ErrOrStderr(), f.config, func() error { return f.run(cmd) })
}

// forwarding is the command line of one `porthole forward`, or `porthole reverse`.
type forwarding struct {
	reverse    bool
	config     *kube.Config
	addresses  []string
	file       string
	readyFile  string
	readyWhen  string
	output     string
	quiet      bool
	verbose    bool
	pin        bool
	each       string
	all        bool
	except     string
	via        string
	container  string
	wait       time.Duration
	udpIdle    time.Duration
	podRunning time.Duration
	maxTunnels int
	kubectl    kubectlFlags
	silence    time.Duration

	host          string
	remoteCommand string
	engineContext string
	agentBinary   string
	agent         agentFlags

	cmd       *cobra.Command
	typed     typed
	given     []string // the names of flags that were typed
	targetArg string   // as it was typed; "" with a file
	forwards  []target.Forward
	command   []string // to run while the session lasts; nil for none
}

// The values of --ready-when.
const (
	readyAll = "all"
	readyAny = "any"
)

func (f *forwarding) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&f.addresses, "address", f.addresses,
		"address to listen on, an IP address or localhost; may be repeated or separated by commas")
	flags.StringVarP(&f.file, "file", "f", "", "YAML file of targets and ports, instead of arguments")
	flags.StringVar(&f.readyFile, "ready-file", "",
		"file to write once the target can be reached, a line ADDRESS:PORT REMOTE for each listener, and its pod with --each; removed at the end")
	flags.StringVar(&f.readyWhen, "ready-when", readyAll,
		"with a file: all or any, which of its forwards the ready file and a COMMAND wait for")
	flags.DurationVar(&f.wait, "wait", 30*time.Second, "how long a connection waits while no pod or container can be reached")
	flags.BoolVar(&f.pin, "pin", false, "stay with one pod for as long as it is there")
	flags.StringVar(&f.each, "each", "", "forward to each pod of the target by itself, at consecutive `ports` or addresses")
	flags.Lookup("each").NoOptDefVal = string(target.EachPorts)
	flags.BoolVar(&f.all, "all", false, "in place of ports: every TCP port that listens at the target, now or later; not for targets of a cluster")
	flags.StringVar(&f.except, "except", "", "`ports` that --all leaves out, as 22,9000-9010")
	flags.IntVar(&f.maxTunnels, "max-tunnels", 64, "how many tunnels to a pod there may be at once; beyond, connections share")
	flags.StringVar(&f.via, "via", target.ViaAuto.String(), "what carries connections to pods: "+oneOf(target.Vias())+"; to containers: "+oneOf(target.EngineVias()))
	flags.StringVar(&f.container, "container", "", "the container of the pod whose Unix sockets are meant, for an agent or cri://")
	f.sharedFlags(flags)
	f.agent.addRelay(flags)
}

// oneOf joins words with commas and an "or".
func oneOf(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// sharedFlags adds the flags of both directions.
func (f *forwarding) sharedFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&f.output, "output", "o", f.output, "text, or json for one event a line")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print errors only")
	flags.BoolVar(&f.verbose, "verbose", false, "tell of the end of each connection, and of pods, too, and all of each error")
	flags.DurationVar(&f.udpIdle, "udp-idle", time.Minute, "after how long without a datagram a client of a UDP port is forgotten")
	flags.DurationVar(&f.podRunning, "pod-running-timeout", time.Minute, "how long to wait for a pod at the start")
	f.agent.add(flags)
	flags.DurationVar(&f.silence, "silence", 30*time.Second,
		"how long porthole at the other end may be silent before its connections are given up; 0 is for ever")
	flags.StringVar(&f.host, "host", "", "another host that pid://, netns:// and containers are of, ssh://[USER@]HOST[:PORT]; it needs porthole too")
	flags.StringVar(&f.remoteCommand, "remote-command", "porthole", `porthole on the other host, as a shell there reads it: "sudo /opt/porthole"`)
	flags.StringVar(&f.engineContext, "engine-context", "", "a context of docker, or a connection of podman, that containers are of; the current one by default")
	addAgentBinary(flags, &f.agentBinary)
	f.config.AddFlags(flags)
	f.kubectl.add(flags)
}

// addAgentBinary adds the flag for the program of helper containers.
func addAgentBinary(flags *pflag.FlagSet, path *string) {
	flags.StringVar(path, "agent-binary", "", "porthole for Linux that a helper container runs, as a `file`; by default this program, or porthole-linux-ARCH beside it")
}

// withoutPorts is the error for a target without ports, or for nothing at all.
func (f *forwarding) withoutPorts(args []string) error {
	err := fmt.Errorf("%s: want a target and at least one port", f.cmd.Name())
	if len(args) == 0 || f.cmd.Name() != "forward" {
		return err
	}
	to, parsed := target.Parse(args[0])
	if parsed != nil || to.Scheme.InCluster() {
		return err
	}
	return hintedError{err, fmt.Sprintf("`porthole targets %s` lists what listens there, and --all forwards to all of it", safetext.Quote(args[0]))}
}

func (f *forwarding) parse(args []string) (err error) {
	if err := f.misplaced(args); err != nil && f.file == "" {
		return err
	}
	switch {
	case f.file != "" && len(args) > 0:
		return errors.New("forward: want either a file or a target")
	case f.file == "" && len(args) < 2 && (!f.all || len(args) != 1):
		return f.withoutPorts(args)
	case f.command != nil && len(f.command) == 0:
		return fmt.Errorf("%s: want a command after --", f.cmd.Name())
	case f.output != "text" && f.output != "json":
		return fmt.Errorf("%s: unknown output %q, want text or json", f.cmd.Name(), f.output)
	case f.udpIdle <= 0:
		return fmt.Errorf("%s: --udp-idle %v: want more than 0", f.cmd.Name(), f.udpIdle)
	case f.readyWhen != readyAll && f.readyWhen != readyAny:
		return fmt.Errorf("forward: --ready-when %q: want all or any", f.readyWhen)
	}
	if len(f.addresses) == 0 {
		return f.reverseForms(fmt.Errorf("address %q: %w", "", target.ErrAddress))
	}
	for i, a := range f.addresses {
		if f.addresses[i], err = target.ParseAddress(a); err != nil {
			return f.reverseForms(err)
		}
	}
	if err := f.agent.check(); err != nil {
		return fmt.Errorf("%s: %w", f.cmd.Name(), err)
	}
	if f.file != "" {
		return f.parseFile()
	}
	return f.parseArgs(args)
}

func (f *forwarding) parseArgs(args []string) (err error) {
	f.targetArg = args[0]
	only := target.Forward{Addresses: f.addresses, Pin: f.pin, Reverse: f.reverse}
	if only.Target, err = target.Parse(args[0]); err != nil {
		return f.typed.targetHint(f.cmd, args[0], err)
	}
	if only.Host, err = parseHost(f.cmd, f.host, only.Target); err != nil {
		return err
	}
	if f.cmd.Flags().Changed("each") {
		if only.Each, err = target.ParseEach(f.each); err != nil {
			return fmt.Errorf("forward: --each %w", err)
		}
	}
	if err := f.parseVia(&only); err != nil {
		return err
	}
	if err := f.parsePorts(&only, args[1:]); err != nil {
		return err
	}
	f.forwards = []target.Forward{only}
	if err := only.CheckPorts(); err != nil {
		return f.reverseForms(err)
	}
	if err := only.CheckAll(); err != nil {
		return fmt.Errorf("forward: --%w", err)
	}
	if err := only.CheckVia(); err != nil {
		return fmt.Errorf("%s: --%w", f.cmd.Name(), err)
	}
	return only.CheckEach()
}

// parsePorts reads the ports, or what stands in their place.
func (f *forwarding) parsePorts(only *target.Forward, args []string) (err error) {
	if only.All = f.all; f.cmd.Flags().Changed("except") {
		if only.Except, err = target.ParsePortSet(f.except); err != nil {
			return fmt.Errorf("forward: --except %w", err)
		}
	}
	parse := target.ParsePorts
	if only.Target.Scheme == target.Kubernetes && !f.reverse {
		parse = target.ParseNamedPorts
	}
	for _, arg := range args {
		ports, err := parse(arg)
		if err != nil {
			return f.portHint(arg, err)
		}
		only.Ports = append(only.Ports, ports...)
	}
	return nil
}

// parseHost reads the host that a command was given for its target.
func parseHost(cmd *cobra.Command, host string, of target.Target) (target.Host, error) {
	given := cmd.Flags().Changed
	switch {
	case host == "" && given("host"):
		return target.Host{}, fmt.Errorf("host %q: %w", "", target.ErrHost)
	case host == "" && given("remote-command"):
		return target.Host{}, hintedError{fmt.Errorf("%s: --remote-command goes with --host", cmd.Name()), "--host ssh://[USER@]HOST says where it is"}
	case host == "":
		return target.Host{}, nil
	case of.Scheme.InCluster():
		err := fmt.Errorf("%s: %s is of a cluster, not of a host: --host goes with pid://, netns:// and containers", cmd.Name(), of)
		return target.Host{}, hintedError{err, "leave it out; --context and --kubeconfig say which cluster is meant"}
	case given("agent-binary"):
		err := fmt.Errorf("%s: --agent-binary goes with engines of this host: porthole on %s finds its own program", cmd.Name(), host)
		return target.Host{}, hintedError{err, "leave it out; --remote-command names the porthole there"}
	}
	return target.ParseHost(host)
}

// parseEngineContext reads the context of an engine that a command was given for its target.
func parseEngineContext(cmd *cobra.Command, context string, only *target.Forward) error {
	if context == "" && cmd.Flags().Changed("engine-context") {
		err := fmt.Errorf("%s: --engine-context %q: want the name of a context", cmd.Name(), "")
		return hintedError{err, "`docker context ls` and `podman system connection ls` list them"}
	}
	only.EngineContext = context
	if err := only.CheckEngine(); err != nil {
		return fmt.Errorf("%s: %w", cmd.Name(), err)
	}
	return nil
}

func (f *forwarding) parseFile() error {
	file, err := os.Open(f.file)
	if err != nil {
		return err
	}
	defer file.Close()
	m, err := manifest.Read(file, f.file)
	if err != nil {
		return err
	}
	f.forwards = m.Forwards
	return nil
}

// printer makes the printer of the output that was asked for.
func (f *forwarding) printer(cmd *cobra.Command) *printer {
	out, errs := cmd.OutOrStdout(), cmd.ErrOrStderr()
	if f.command != nil {
		out = errs
	}
	if f.quiet && f.output == "text" {
		out = io.Discard
	}
	if f.output == "json" {
		return newPrinter(out, errs, jsonStyle{})
	}
	return newPrinter(out, errs, textStyle{verbose: f.verbose, many: len(f.forwards) > 1 || f.forwards[0].Each != ""})
}
