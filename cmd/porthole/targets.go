package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"porthole.dev/porthole/internal/container"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/route"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/ssh"
	"porthole.dev/porthole/internal/target"
)

const targetsLong = `List what can be forwarded to, and which ports of it.

On this machine, these are the containers of every engine that runs (Docker, podman,
containerd, and the pods of a node's runtime), with the TCP and UDP ports and the Unix
sockets that listen inside, as the kernel lists them. Ports that the engine has published
are marked, and -o wide names the service of a container that Compose has made, which is
a target, too. In the kubeconfig's cluster, if it answers within 3 seconds, these are the
pods, services and workloads of the namespace, with the ports that they declare.

With a TARGET, as for "porthole forward", only its ports are listed, with the processes
that listen, as far as they can be seen. For a pod these are the ports that it declares,
and those that really listen if its node runs porthole. -o wide has more columns, -o json
is for programs, and --watch keeps running and prints the list again when it has changed.`

const targetsExample = `  porthole targets                          # containers here, and the cluster's targets
  porthole targets docker://web             # what listens in a container
  porthole targets pid://4947 -o wide
  porthole targets kuard -n shop            # a pod's ports
  porthole targets --host ssh://box docker://web
  porthole targets -o json | jq -r '.[].target'`

const (
	// clusterTime is how long the cluster is waited for. On a laptop it is often out of reach.
	clusterTime = 3 * time.Second
	// openTime is how long a single target may take to tell what listens there.
	openTime = 20 * time.Second
	// watchTime is the time between two looks with --watch.
	watchTime = 2 * time.Second
)

// targeting is the command line of `porthole targets`.
type targeting struct {
	config        *kube.Config
	output        string // "", wide or json
	watch         bool
	host          string
	remoteCommand string
	engineContext string
	agentBinary   string

	only   *target.Forward // the target that was named; nil for all
	stderr io.Writer
	told   map[string]bool // what was said on stderr
	last   []byte          // what was printed
	opened *route.Result   // leads to the only target; nil if that has not been needed
	listed bool            // the list of its engine has told what listens at the only target
}

func newTargets() *cobra.Command {
	t := &targeting{config: &kube.Config{Retries: new(kube.RetryLimiter)}, told: map[string]bool{}}
	cmd := &cobra.Command{
		Use:        "targets [TARGET]",
		SuggestFor: []string{"list", "ls", "ps"},
		Short:      "List what can be forwarded to, and which ports of it",
		Long:       targetsLong,
		Example:    targetsExample,
		Args:       func(*cobra.Command, []string) error { return nil }, // parse checks them
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.parse(cmd, args); err != nil {
				return usageError{err}
			}
			t.stderr = cmd.ErrOrStderr()
			err := t.run(cmd.Context(), cmd.OutOrStdout())
			if t.only != nil {
				err = (&forwarding{cmd: cmd, typed: os.Args[1:], targetArg: args[0]}).advise(err)
			}
			return err
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, noFiles
			}
			f := &forwarding{config: t.config, host: t.host, engineContext: t.engineContext}
			return f.complete(cmd, nil, prefix)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&t.output, "output", "o", "", "wide for more columns, or json")
	flags.BoolVarP(&t.watch, "watch", "w", false, "keep running, and print the list again when it has changed")
	flags.StringVar(&t.host, "host", "", "another host that the TARGET is of, ssh://[USER@]HOST[:PORT]; it needs porthole too")
	flags.StringVar(&t.remoteCommand, "remote-command", "porthole", `porthole on the other host, as a shell there reads it: "sudo /opt/porthole"`)
	flags.StringVar(&t.engineContext, "engine-context", "", "a context of docker, or a connection of podman, that the TARGET is of")
	addAgentBinary(flags, &t.agentBinary)
	t.config.AddFlags(flags)
	(&forwarding{config: t.config}).completeFlags(cmd)
	return cmd
}

func (t *targeting) parse(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) > 1:
		return severalTargets(cmd, args)
	case t.output != "" && t.output != "wide" && t.output != "json":
		return hintedError{fmt.Errorf("targets: unknown output %q, want wide or json", t.output), "without -o, it is a table"}
	case len(args) == 0:
		return onlyWithOne(cmd)
	}
	to, err := target.Parse(args[0])
	if err != nil {
		line := typed(os.Args[1:])
		if name, _, ok := targetAndPorts(args[0]); ok {
			return hintedError{err, line.with(args[0], name).line(cmd)}
		}
		return line.targetHint(cmd, args[0], err)
	}
	if to.Scheme == target.RemoteHost {
		return fmt.Errorf("targets: what listens at %s cannot be seen", to)
	}
	if err := checkUseful(cmd.Name(), givenFlags(cmd.Flags()), to); err != nil {
		return err
	}
	t.only = &target.Forward{Target: to}
	if t.only.Host, err = parseHost(cmd, t.host, to); err != nil {
		return err
	}
	return parseEngineContext(cmd, t.engineContext, t.only)
}

// severalTargets is the error for more than one target.
func severalTargets(cmd *cobra.Command, args []string) error {
	err, line := errors.New("targets: want one target, or none for all"), typed(os.Args[1:])
	if meant, ok := line.withEngine(args[0]); ok {
		return hintedError{err, meant.line(cmd)}
	}
	if isPort(args[1]) {
		return hintedError{err, line.reordered(args, args[:1]).line(cmd) + " lists all of its ports"}
	}
	return err
}

// onlyWithOne reports flags that say where a single target is, for a list of all.
func onlyWithOne(cmd *cobra.Command) error {
	for _, name := range []string{"host", "remote-command", "engine-context", "agent-binary"} {
		if cmd.Flags().Changed(name) {
			meant := append(typed(os.Args[1:]), "docker://NAME")
			return hintedError{fmt.Errorf("targets: --%s goes with a TARGET", name), "for example " + meant.line(cmd)}
		}
	}
	return nil
}

// run prints the targets, and with --watch again whenever they have changed.
func (t *targeting) run(ctx context.Context, out io.Writer) error {
	containers := &container.Opener{Version: version(), AgentBinary: t.agentBinary}
	defer containers.Close()
	hosts := &ssh.Opener{Version: version(), RemoteCommand: t.remoteCommand}
	defer hosts.Close()
	defer func() {
		if t.opened != nil {
			_ = t.opened.Close()
		}
	}()
	for ctx.Err() == nil {
		all, err := t.collect(ctx, containers, hosts)
		switch {
		case err == nil:
			err = t.printChanged(out, all)
		case t.returns(err):
			t.say(err)
			t.last, err = []byte{}, nil
		}
		if t.watch && errors.Is(err, errUnread) {
			return nil // as without a reader that has stalled
		}
		if err != nil || !t.watch {
			return err
		}
		select {
		case <-time.After(watchTime):
		case <-ctx.Done():
		}
	}
	return nil
}

// returns reports whether a target that is watched, and was there, may come back after an error: a container may be started again.
func (t *targeting) returns(err error) bool {
	return t.watch && t.last != nil && t.only != nil && t.only.Target.Scheme.InEngine() && !errors.Is(err, container.ErrRemoved)
}

// printChanged prints the targets, unless they are as they were the last time.
func (t *targeting) printChanged(out io.Writer, all []foundTarget) error {
	var text bytes.Buffer
	if err := t.print(&text, all); err != nil || bytes.Equal(text.Bytes(), t.last) {
		return err
	}
	if t.last != nil && t.output != "json" {
		if _, err := io.WriteString(out, "\n"); err != nil {
			return err
		}
	}
	t.last = text.Bytes()
	_, err := out.Write(t.last)
	return err
}

// collect finds the targets, or the only one.
func (t *targeting) collect(ctx context.Context, containers *container.Opener, hosts *ssh.Opener) ([]foundTarget, error) {
	if t.only != nil && t.only.Target.Scheme == target.Kubernetes {
		one, err := t.object(ctx)
		return []foundTarget{one}, err
	}
	if t.only != nil {
		one, err := t.onHost(ctx, containers, hosts)
		return []foundTarget{one}, err
	}
	var declared []foundTarget
	var unread []error
	var reading sync.WaitGroup
	reading.Go(func() { declared, unread = t.inCluster(ctx) })
	listed, errs := containers.List(ctx)
	for _, err := range errs {
		if len(listed) == 0 || !closedRuntime(err) {
			t.say(err)
		}
	}
	all := make([]foundTarget, 0, len(listed))
	for _, l := range listed {
		all = append(all, foundContainer(l))
	}
	reading.Wait()
	for _, err := range unread {
		t.say(err)
	}
	return append(all, declared...), nil
}

// closedRuntime reports whether err is that containerd, or the pods' runtime, is not this user's. Docker's package brings root's containerd
// along, which says nothing to somebody who has containers of Docker or podman.
func closedRuntime(err error) bool {
	var engine *container.EngineError
	return errors.As(err, &engine) && errors.Is(engine, container.ErrEnginePermission) &&
		(engine.Engine == target.Containerd || engine.Engine == target.CRI)
}

// say tells of what could not be listed, once.
func (t *targeting) say(err error) { t.sayLine("porthole: " + describe(err, false)) }

// sayLine prints a line on stderr, once: --watch looks again and again.
func (t *targeting) sayLine(line string) {
	if !t.told[line] {
		t.told[line] = true
		fmt.Fprintln(t.stderr, line)
	}
}

// inCluster lists what a cluster has, and why not all of it; without a kubeconfig, nothing.
func (t *targeting) inCluster(ctx context.Context) (all []foundTarget, errs []error) {
	cluster, err := kube.Open(t.config)
	if errors.Is(err, kube.ErrNoConfig) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{err}
	}
	defer cluster.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, clusterTime, fmt.Errorf("the cluster at %s does not answer within %v", cluster.Server, clusterTime))
	defer cancel()
	declared, err := cluster.Targets(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		errs = append(errs, err)
	}
	for _, d := range declared {
		one := foundTarget{Target: d.Target.String(), State: d.State}
		one.declare(d.Ports)
		all = append(all, one)
	}
	return all, errs
}

// object finds the ports of one object of the cluster.
func (t *targeting) object(ctx context.Context) (one foundTarget, err error) {
	cluster, err := kube.Open(t.config)
	if err != nil {
		return one, err
	}
	defer cluster.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, fmt.Errorf("the cluster at %s does not answer within %v", cluster.Server, openTime))
	defer cancel()
	declared, err := cluster.DeclaredPorts(ctx, t.only.Target)
	if err != nil {
		return one, cmp.Or(context.Cause(ctx), err)
	}
	one.Target = t.only.Target.String()
	sockets, err := cluster.Listening(ctx, t.only.Target)
	switch {
	case err == nil:
		one.listen(sockets)
	case errors.Is(err, target.ErrUnsupported): // the declared ports are all that is known
	default:
		one.Error = describe(withKubectlText(err), false)
	}
	one.declare(declared)
	return one, nil
}

// onHost finds the ports of one target of a host.
func (t *targeting) onHost(ctx context.Context, containers *container.Opener, hosts *ssh.Opener) (one foundTarget, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTime, fmt.Errorf("%s does not tell within %v what listens", t.only, openTime))
	defer cancel()
	one.Target = t.only.Target.String()
	// The list of an engine far away never does, nor for a service: it is asked for once.
	if t.only.Target.Scheme.InEngine() && t.only.Host == (target.Host{}) && (t.listed || t.opened == nil) {
		listed, _ := containers.ListOf(ctx, t.only.Target.Scheme, t.only.EngineContext)
		if i := slices.IndexFunc(listed, func(l container.Listed) bool { return l.Target == t.only.Target }); i >= 0 && listed[i].Listening != nil {
			t.listed = true
			return foundContainer(listed[i]), nil
		}
	}
	if t.opened == nil {
		open := byHost(hostOpeners(containers)[t.only.Target.Scheme], hosts.Open)
		if t.opened, err = open(ctx, *t.only, t.carried); err != nil {
			return one, err
		}
	}
	sockets, err := t.opened.Listening.First(ctx)
	one.listen(sockets)
	if errors.Is(err, netns.ErrNotListed) {
		one.Error, err = describe(err, false), nil
	}
	return one, err
}

// carried tells of a helper container, and of a container that has no network of its own.
func (t *targeting) carried(e route.Event) {
	if e.Kind == route.Carried {
		e.Target = t.only.Target.String()
		fmt.Fprintln(t.stderr, safetext.Line(textStyle{}.carried(e)))
	}
}

// print prints the targets as a table or as JSON.
func (t *targeting) print(out io.Writer, all []foundTarget) error {
	switch {
	case t.output == "json":
		encoder := json.NewEncoder(out)
		if !t.watch {
			encoder.SetIndent("", "  ")
		}
		return encoder.Encode(all)
	case t.only != nil:
		return printPorts(out, all[0], t.output == "wide")
	case len(all) == 0:
		t.sayLine("porthole: no container is found here, and nothing in a cluster; pid://NUMBER and netns://NAME are targets in any case")
		return nil
	}
	return printTargets(out, all, t.output == "wide")
}
