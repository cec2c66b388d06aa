package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/node"
	"porthole.dev/porthole/internal/target"
)

const nodeLong = `Serve the node's end of port-forwarding: stand between the kubelet and its
container runtime, pass every call on as it is, and answer port-forwards with
Porthole's own server, which enters pods without socat, nsenter or a process per
connection.

The kubelet is pointed at the socket by --container-runtime-endpoint; docs/node.md
says how, and how to go back. The runtime may start later, and be restarted.
It takes root.`

const nodeExample = `  porthole node
  porthole node --cri-upstream unix:///run/crio/crio.sock
  porthole node --deny-host-network --deny-ports 22,10250
  porthole node --allow-unix '/run/postgresql/.s.PGSQL.*'
  porthole node --backend socat -v 4   # as kubelets did it once`

// nodeOptions are the flags that have to be converted for node.Node.
type nodeOptions struct {
	node.Node
	backend     string
	repairURLs  bool
	memory      string
	allow, deny string
	unix        string
	reverse     string
	logFormat   string
	verbosity   int
}

func newNode() *cobra.Command {
	o := &nodeOptions{}
	cmd := &cobra.Command{
		Use:     "node",
		Short:   "Serve the node's end of port-forwarding, in front of the container runtime",
		Long:    nodeLong,
		Example: nodeExample,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.parse(cmd.ErrOrStderr()); err != nil {
				return usageError{err}
			}
			return o.run(cmd)
		},
	}
	o.flags(cmd)
	return cmd
}

func (o *nodeOptions) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.Listen, "cri-listen", "unix:///run/porthole/cri.sock", "socket to make for the kubelet")
	flags.StringVar(&o.Upstream, "cri-upstream", "unix:///run/containerd/containerd.sock", "socket of the container runtime")
	flags.StringVar(&o.Docker, "docker-socket", "unix:///run/docker.sock",
		`socket of the Docker engine, asked where the runtime does not tell a pod's process (cri-dockerd); "" for none`)
	flags.StringVar(&o.backend, "backend", string(node.Native), "native, or socat to run nsenter and socat for each connection")
	flags.StringVar(&o.allow, "allow-ports", "", "the only ports that may be forwarded to, as 80,443,8000-9000; all if not given")
	flags.StringVar(&o.deny, "deny-ports", "", "ports that may not, even if --allow-ports has them")
	flags.StringVar(&o.unix, "allow-unix", "", "Unix sockets of pods that may be forwarded to, as /run/postgresql/.s.PGSQL.*,/tmp/*.sock; none if not given")
	flags.StringVar(&o.reverse, "allow-reverse", "none",
		`where "porthole reverse" may listen in pods: none, loopback or any; never in pods that use the node's own network, and --allow-ports and --deny-ports hold too`)
	flags.BoolVar(&o.Policy.DenyHostNetwork, "deny-host-network", false, "refuse pods that use the node's own network")
	flags.StringSliceVar(&o.PassThrough, "pass-through", nil, "runtime handlers, as gvisor,kata, whose pods' forwards are left to the runtime; "+
		"added to those whose pods are seen not to be in a network namespace")
	flags.BoolVar(&o.repairURLs, "repair-urls", true, "add the scheme to the URLs of a runtime that leaves it out (cri-dockerd), which kubelets from 1.36 on refuse")
	flags.StringVar(&o.Streaming, "streaming-address", "127.0.0.1:0", "loopback address that the kubelet fetches forwards from, port 0 for any free one")
	flags.BoolVar(&o.StreamingAnywhere, "streaming-anywhere", false, "let --streaming-address be one that others can reach; forwards are not encrypted there")
	flags.StringVar(&o.memory, "memory", "256MiB", "what all forwards together may hold unread, at least 16MiB")
	flags.IntVar(&o.MaxTunnels, "max-tunnels", 512, "tunnels of clients that may be open; for one more an idle one gives way")
	flags.IntVar(&o.MaxPodTunnels, "max-tunnels-per-pod", 128, "how many of them may lead to one pod")
	flags.StringVar(&o.Metrics, "metrics-address", "127.0.0.1:9753", `address of the Prometheus metrics, at /metrics; "" for none`)
	flags.StringVar(&o.Events, "events", node.DefaultEvents, `socket to make for "porthole trace forward"; "" for none`)
	o.logFlags(cmd)
}

func (o *nodeOptions) logFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.logFormat, "log-format", "text", "text or json, on stderr")
	cmd.Flags().IntVarP(&o.verbosity, "v", "v", 0, "how much to log, from 0 to 4")
}

// dataPathCommand is the hidden command that the process which carries the forwards runs.
const dataPathCommand = "node-data-path"

// newNodeDataPath makes the command that `porthole node` starts.
func newNodeDataPath() *cobra.Command {
	o := &nodeOptions{}
	cmd := &cobra.Command{
		Use:    dataPathCommand,
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.openLog(cmd.ErrOrStderr()); err != nil {
				return usageError{err}
			}
			keepToOneProcessor()
			return node.RunDataPath(cmd.Context(), o.Log)
		},
	}
	o.logFlags(cmd)
	return cmd
}

// dataPath returns its command line. It runs the very file that runs here: the one at its
// path may have been replaced by another version.
func (o *nodeOptions) dataPath() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", dataPathCommand, "--log-format", o.logFormat, "--v", strconv.Itoa(o.verbosity))
	cmd.Args[0] = os.Args[0]
	cmd.Stderr = os.Stderr
	return cmd
}

// minMemory is enough for a few connections.
const minMemory = 16 << 20

func (o *nodeOptions) parseLimits() (err error) {
	if o.Memory, err = parseSize(o.memory); err != nil {
		return fmt.Errorf("node: --memory: %w", err)
	}
	switch {
	case o.Memory < minMemory:
		return fmt.Errorf("node: --memory %s: want at least 16MiB", o.memory)
	case o.MaxTunnels < 1:
		return fmt.Errorf("node: --max-tunnels %d: want at least 1", o.MaxTunnels)
	case o.MaxPodTunnels < 1:
		return fmt.Errorf("node: --max-tunnels-per-pod %d: want at least 1", o.MaxPodTunnels)
	}
	return nil
}

// parseSize reads a number of bytes such as 256MiB, or 256Mi, as Kubernetes has it.
func parseSize(text string) (int, error) {
	digits := strings.TrimRight(text, "KMGiB")
	shift, ok := map[string]int{"": 0, "B": 0, "KiB": 10, "Ki": 10, "MiB": 20, "Mi": 20, "GiB": 30, "Gi": 30}[text[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 63)
	if !ok || err != nil || n > math.MaxInt>>shift {
		return 0, fmt.Errorf("%q is not a size such as 256MiB", text)
	}
	return int(n) << shift, nil
}

// parse completes the Node from the flags.
func (o *nodeOptions) parse(stderr io.Writer) (err error) {
	o.Backend, o.Version, o.DataPath = node.Backend(o.backend), version(), o.dataPath
	o.KeepURLs = !o.repairURLs
	if o.Policy.Allow, err = target.ParsePortSet(o.allow); err != nil {
		return err
	}
	if o.Policy.Deny, err = target.ParsePortSet(o.deny); err != nil {
		return err
	}
	if o.Policy.AllowUnix, err = node.ParsePaths(o.unix); err != nil {
		return err
	}
	if o.Policy.AllowReverse, err = node.ParseReverse(o.reverse); err != nil {
		return err
	}
	if err := o.parseLimits(); err != nil {
		return err
	}
	if err := o.openLog(stderr); err != nil {
		return err
	}
	return o.Check()
}

func (o *nodeOptions) openLog(stderr io.Writer) error {
	if o.verbosity < 0 || o.verbosity > 4 {
		return fmt.Errorf("node: verbosity %d: want 0 to 4", o.verbosity)
	}
	// slog's levels are 4 apart, as if made for klog's numbers.
	options := &slog.HandlerOptions{Level: slog.LevelInfo - slog.Level(o.verbosity)}
	switch o.logFormat {
	case "text":
		o.Log = slog.New(slog.NewTextHandler(stderr, options))
	case "json":
		o.Log = slog.New(slog.NewJSONHandler(stderr, options))
	default:
		return fmt.Errorf("node: unknown log format %q, want text or json", o.logFormat)
	}
	return nil
}

func (o *nodeOptions) run(cmd *cobra.Command) error {
	manager := os.Getenv("NOTIFY_SOCKET") // of systemd
	notify := func(state string) {
		if err := node.Notify(manager, state); err != nil {
			o.Log.Warn("node: service manager", "err", err)
		}
	}
	o.Ready = func(a node.Addresses) {
		o.Log.Info("node: serving", "cri", a.CRI, "streaming", a.Streaming,
			"metrics", cmp.Or(a.Metrics, "none"), "events", cmp.Or(a.Events, "none"), "backend", o.backend)
		notify(node.NotifyReady)
	}
	o.Stopping = func() {
		notify(node.NotifyStopping)
		o.Log.Info("node: stopping")
	}
	keepToOneProcessor()
	node.Prioritize()
	return o.Run(cmd.Context())
}
